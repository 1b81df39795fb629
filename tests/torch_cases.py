"""The inputs of torch's own operator database for every operator shared with it: read from torch, or frozen as data.

`collect` reads them from an installed torch, with torch's values: test_torch_cases.py runs them all beside torch. What
remains without torch is a description of each (shapes, strides, arguments) in data/torch_cases.jsonl, from which
`Case.arrays` makes the operands again, with numbers that depend on the description alone.

    python -m tests.torch_cases        write that file anew, with the torch of the extra `peers`
"""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastconv
from tests.problems import generator

FROZEN = Path(__file__).parent / "data" / "torch_cases.jsonl"


class Source(NamedTuple):
    """Where torch keeps inputs of an operator: op_db's name and variant, or the class of a module."""

    name: str
    variant: str = ""


def _pool(name: str, module: str) -> dict[str, tuple[Source, ...]]:
    return {
        f"{name}{axes}d": (Source(f"nn.functional.{name}{axes}d"), Source(f"torch.nn.{module}{axes}d"))
        for axes in (1, 2, 3)
    }


#: Every shared operator, by our name; fold has no inputs of its own in torch, and is the gradient of unfold. A module's
#: constructor takes the arguments of its function, so a module's samples are inputs of its function too.
OPERATORS: dict[str, tuple[Source, ...]] = {
    **{f"conv{axes}d": (Source(f"nn.functional.conv{axes}d"),) for axes in (1, 2, 3)},
    **{f"conv_transpose{axes}d": (Source(f"nn.functional.conv_transpose{axes}d"),) for axes in (1, 2, 3)},
    **_pool("max_pool", "MaxPool"),
    **_pool("avg_pool", "AvgPool"),
    **_pool("adaptive_avg_pool", "AdaptiveAvgPool"),
    **_pool("adaptive_max_pool", "AdaptiveMaxPool"),
    **{f"lp_pool{axes}d": (Source(f"torch.nn.LPPool{axes}d"),) for axes in (1, 2, 3)},
    "fractional_max_pool2d": (
        Source("nn.functional.fractional_max_pool2d"),
        Source("torch.nn.FractionalMaxPool2d"),
    ),
    **{
        f"max_unpool{axes}d": tuple(Source(f"nn.functional.max_unpool{axes}d", variant) for variant in ("", "grad"))
        for axes in (1, 2, 3)
    },
    "unfold": (Source("nn.functional.unfold"),),
    "pad": (
        Source("constant_pad_nd"),
        *(
            Source("nn.functional.pad", variant)
            for variant in ("constant", "reflect", "replicate", "replicate_negative", "circular")
        ),
    ),
    "upsample": (
        Source("nn.functional.upsample_nearest"),
        Source("nn.functional.upsample_bilinear"),
        Source("nn.functional.interpolate", "nearest"),
        Source("nn.functional.interpolate", "bilinear"),
    ),
    "local_response_norm": (Source("nn.functional.local_response_norm"), Source("torch.nn.LocalResponseNorm")),
}

#: What a source fixes that its samples don't say.
_IMPLIED = {
    "nn.functional.upsample_nearest": {"mode": "nearest"},
    "nn.functional.upsample_bilinear": {"mode": "bilinear", "align_corners": True},
}


#: Names of positional arguments where they are not those of our function.
_POSITIONAL = {"constant_pad_nd": ["input", "pad", "value"]}


@dataclass(frozen=True)
class Operand:
    """An array of a case: all but its numbers. `dtype` "float" is whichever of ours the case runs in."""

    shape: tuple[int, ...]
    strides: tuple[int, ...] | None  # in elements; None: C-contiguous
    dtype: str

    @classmethod
    def of(cls, array: np.ndarray, dtype: str) -> Operand:
        strides = None if array.flags.c_contiguous else tuple(step // array.itemsize for step in array.strides)
        return cls(array.shape, strides, "float" if array.dtype.name == dtype else array.dtype.name)

    def laid_out(self, values: np.ndarray) -> np.ndarray:
        """`values` with these strides."""
        if self.strides is None:
            return values
        span = 1 + sum((extent - 1) * step for extent, step in zip(self.shape, self.strides, strict=True))
        memory = np.empty(max(span, 0), values.dtype)
        steps = tuple(step * values.itemsize for step in self.strides)
        view = np.lib.stride_tricks.as_strided(memory, self.shape, steps)
        view[...] = values
        return view


@dataclass(frozen=True)
class Case:
    """One input of torch's: what is called with which arguments."""

    operator: str
    kind: str  # sample, reference, module, error
    arguments: tuple[tuple[str, Any], ...]
    #: error: the exception raised here; None where the call is computed in spite of torch, or not yet known.
    raises: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        return dict(self.arguments)

    def __str__(self) -> str:
        return json.dumps(self.as_json())

    def as_json(self) -> dict[str, Any]:
        def plain(value: Any) -> Any:
            if not isinstance(value, Operand):
                return value
            entry: dict[str, Any] = {"shape": value.shape}
            if value.strides is not None:
                entry["strides"] = value.strides
            if value.dtype != "float":
                entry["dtype"] = value.dtype
            return entry

        found: dict[str, Any] = {"operator": self.operator, "kind": self.kind}
        if self.kind == "error":
            found["raises"] = self.raises
        return found | {name: plain(value) for name, value in self.arguments}

    @classmethod
    def from_json(cls, line: str) -> Case:
        def rich(value: Any) -> Any:
            if isinstance(value, dict):
                strides = value.get("strides")
                return Operand(tuple(value["shape"]), strides and tuple(strides), value.get("dtype", "float"))
            return tuple(rich(entry) for entry in value) if isinstance(value, list) else value

        entry = {name: rich(value) for name, value in json.loads(line).items()}
        head = {name: entry.pop(name) for name in ("operator", "kind", "raises") if name in entry}
        return cls(arguments=tuple(entry.items()), **head)

    def call(self, dtype: str) -> dict[str, Any]:
        """The arguments with arrays of numbers that depend on the case alone."""
        rng, given = generator(str(self)), self.given
        if self.operator.startswith("max_unpool") and self.kind != "error":
            given |= self._pooled(rng, dtype)
        return {
            name: value.laid_out(_numbers(rng, value, dtype, name)) if isinstance(value, Operand) else value
            for name, value in given.items()
        }

    def _pooled(self, rng: np.random.Generator, dtype: str) -> dict[str, np.ndarray]:
        """Maxima and their indices: an index that comes twice brings the same value."""
        given = self.given
        shape, size = given["input"].shape, given["output_size"]
        plane = size[-(len(shape) - 2) :]
        leading = shape[:2]
        images = rng.standard_normal((*leading, int(np.prod(plane)))).astype(dtype)
        flat = rng.integers(0, images.shape[-1], (*leading, int(np.prod(shape[2:]))))
        values = np.take_along_axis(images, flat, -1)
        return {
            "input": given["input"].laid_out(values.reshape(shape)),
            "indices": given["indices"].laid_out(flat.reshape(shape)),
        }


def _numbers(rng: np.random.Generator, operand: Operand, dtype: str, name: str) -> np.ndarray:
    kind = dtype if operand.dtype == "float" else operand.dtype
    if name == "indices":
        return np.zeros(operand.shape, kind)
    if name == "_random_samples":
        return rng.random(operand.shape).astype(kind)
    return np.asarray(rng.standard_normal(operand.shape)).astype(kind)


# -- From torch -------------------------------------------------------------------------------------


class Live(NamedTuple):
    """A case with torch's own numbers, and the way to ask torch."""

    case: Case
    arguments: dict[str, Any]  # ours: names, arrays and plain values
    ask: Any  # (torch's function, sample input, args, kwargs)


def collect(operator: str, dtype: str) -> list[Live]:
    """Every input that torch has for an operator; of the same description, the first."""
    found: dict[Case, Live] = {}
    for source in OPERATORS[operator]:
        for live in _read(operator, source, dtype):
            alike = Case(operator, "", live.case.arguments) if live.case.kind != "error" else live.case
            found.setdefault(alike, live)
    return list(found.values())


def _read(operator: str, source: Source, dtype: str) -> Iterator[Live]:
    import torch

    kind = getattr(torch, dtype)
    torch.manual_seed(0)
    if source.name.startswith("torch.nn."):
        yield from _of_module(torch, operator, source.name.removeprefix("torch.nn."), kind)
        return
    from torch.testing._internal.common_methods_invocations import op_db

    (entry,) = (e for e in op_db if (e.name, e.variant_test_name) == source)
    lists = [("sample", entry.sample_inputs("cpu", kind, requires_grad=False))]
    if entry.reference_inputs_func is not None:  # otherwise the samples again
        lists.append(("reference", entry.reference_inputs("cpu", kind, requires_grad=False)))
    for name, samples in lists:
        for sample in samples:
            yield _live(operator, name, entry.op, sample.input, sample.args, sample.kwargs, source.name)
    if entry.error_inputs_func is not None:
        for error in entry.error_inputs("cpu"):
            sample = error.sample_input
            if hasattr(sample.input, "detach"):
                yield _live(operator, "error", entry.op, sample.input, sample.args, sample.kwargs, source.name)


def _of_module(torch: Any, operator: str, name: str, kind: Any) -> Iterator[Live]:
    """A module's samples as calls of its function."""
    from torch.testing._internal.common_modules import module_db

    (entry,) = (e for e in module_db if e.module_cls is getattr(torch.nn, name))
    function = getattr(torch.nn.functional, operator)
    for sample in entry.module_inputs_func(entry, "cpu", kind, requires_grad=False, training=True):
        made, forward = sample.constructor_input, sample.forward_input
        yield _live(operator, "module", function, forward.args[0], made.args, made.kwargs, name)
    if entry.module_error_inputs_func is not None:
        for error in entry.module_error_inputs_func(entry, "cpu", kind, requires_grad=False, training=True):
            made = error.module_error_input.constructor_input
            images = error.module_error_input.forward_input.args[0]
            yield _live(operator, "error", function, images, made.args, made.kwargs, name)


def _live(operator: str, kind: str, function: Any, first: Any, args: Any, kwargs: Any, source: str) -> Live:
    """Arguments by the names of our signature, which are torch's; those that it lacks keep torch's names."""
    names = _POSITIONAL.get(source) or list(inspect.signature(getattr(fastconv, operator)).parameters)
    given = dict(zip(names, (first, *args), strict=False)) | kwargs | _IMPLIED.get(source, {})
    arrays = {name: _plain(value) for name, value in given.items()}
    dtype = "none" if kind == "error" else arrays["input"].dtype.name
    if operator == "fractional_max_pool2d":
        # torch draws them anew for every call that has none, and of a module it takes the input's dtype.
        samples = arrays.get("_random_samples")
        if samples is None:
            samples = generator(given).random((*((1,) + first.shape)[-4:-2], 2))
        arrays["_random_samples"] = samples.astype(dtype)
        kwargs = kwargs | {"_random_samples": arrays["_random_samples"]}
        if isinstance(kwargs.get("output_ratio"), float):  # the module takes one number, its function two
            kwargs["output_ratio"] = (kwargs["output_ratio"],) * 2
    described = tuple(
        (name, Operand.of(value, dtype) if isinstance(value, np.ndarray) else value) for name, value in arrays.items()
    )
    return Live(Case(operator, kind, described), arrays, (function, first, args, kwargs))


def _plain(value: Any) -> Any:
    if hasattr(value, "detach"):
        return value.detach().numpy()
    return tuple(_plain(entry) for entry in value) if isinstance(value, (list, tuple)) else value


# -- Frozen -----------------------------------------------------------------------------------------

#: An operator with more cases than this keeps those that cover every pair of its arguments' values.
_MANY = 60
#: Images above this many elements are for torch alone: the definitions are plain loops.
_LARGE = 20_000


def core(cases: list[Case]) -> list[Case]:
    """The cases that are frozen: all of a few, of many a cover of all pairs of values."""
    small = [
        case
        for case in cases
        if all(np.prod(value.shape) <= _LARGE for _, value in case.arguments if isinstance(value, Operand))
    ]
    if len(small) <= _MANY:
        return small
    seen: set[Any] = set()
    kept = []
    for case in small:
        pairs = set(itertools.combinations(case.arguments, 2))
        if case.kind != "sample" or not pairs <= seen:
            kept.append(case)
            seen |= pairs
    return kept


def with_outcome(live: Live) -> Case:
    """An error with the exception that it raises here."""
    if live.case.kind != "error":
        return live.case
    try:
        getattr(fastconv, live.case.operator)(**live.arguments)
    except (TypeError, ValueError) as error:
        return replace(live.case, raises=type(error).__name__)
    return live.case


def as_text() -> str:
    """What the file holds, from the installed torch."""
    cases = [case for operator in OPERATORS for case in core([with_outcome(x) for x in collect(operator, "float32")])]
    return "".join(f"{case}\n" for case in cases)


@cache
def frozen() -> dict[str, list[Case]]:
    """The cases of the file, by operator."""
    found: dict[str, list[Case]] = {}
    for line in FROZEN.read_text().splitlines():
        case = Case.from_json(line)
        found.setdefault(case.operator, []).append(case)
    return found


if __name__ == "__main__":
    FROZEN.parent.mkdir(exist_ok=True)
    FROZEN.write_text(as_text())
