"""Whoever can be timed: a name, and a way to get ready for one problem, direction and set of arrays.

`prepare` returns a `Prepared` call, or raises `Refused` with the reason that the row then shows. fastconv's
algorithms are those that `fastconv.algorithms` lists: a new one takes part without a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

import fastconv
from bench.data import Operands, reduction
from bench.presets import Problem

#: Plain Python loops take part in timed runs up to so many multiply-accumulates (about 50 ms).
NAIVE_MACS = 200_000


class Refused(Exception):
    """Why a candidate does not take part in a row."""


class Taken(NamedTuple):
    """Which of fastconv's algorithms a candidate computes with."""

    algorithm: str | None = None  # None: another library
    admitted: bool = False  # whether auto may take it: nothing would compile, and its error is tolerated


def _nothing() -> None:
    """Do nothing."""


@dataclass
class Prepared:
    """One candidate, ready for one problem."""

    name: str
    call: Callable[[], Any]  # what is timed
    expected_error: float  # max|error| / max|result| that it promises on independent N(0, 1) data
    workspace_bytes: int | None = None
    refresh: Callable[[], None] = _nothing  # after the contents of the operands changed
    ready: Callable[[], bool] = field(default=lambda: True)  # False while a call would compile first
    warm_up: Callable[[], Any] = _nothing  # compiles whatever the first call left
    rebuilt: bool = False  # whether `refresh` builds the call anew, so that its next call is a first one
    taken: Callable[[], Taken] = Taken  # asked when everything was timed: what is compiled by then may be taken
    results: Callable[[Any], tuple[np.ndarray, ...]] = lambda result: (  # what `call` returned, as NumPy arrays
        result if isinstance(result, tuple) else (result,)
    )


class Rebuilt:
    """The call of a model that holds its weight, and takes no other: `refresh` builds it anew."""

    def __init__(self, build: Callable[[], Callable[[], Any]]) -> None:
        self._build = build
        self._call: Callable[[], Any] | None = None

    def refresh(self) -> None:
        """Build it from the weight's present contents."""
        self._call = None  # its memory is free before the next takes as much
        self._call = self._build()

    def __call__(self) -> Any:
        assert self._call is not None
        return self._call()


class Candidate(Protocol):
    """Takes part in a run."""

    @property
    def name(self) -> str:
        """What its rows are called."""

    def prepare(self, problem: Problem, direction: str, operands: Operands) -> Prepared:
        """Get ready, or raise `Refused`."""


@dataclass(frozen=True)
class Algorithm:
    """One of fastconv's algorithms, called through the public functions."""

    name: str

    def prepare(self, problem: Problem, direction: str, operands: Operands) -> Prepared:
        """Ask `fastconv.explain` first: what an algorithm refuses is a row with its reason."""
        if self.name == "naive" and problem.macs > NAIVE_MACS:
            raise Refused(f"not timed: plain Python takes part up to {NAIVE_MACS:,} multiply-accumulates")
        table = fastconv.explain(problem, direction="forward" if direction == "forward_indices" else direction)
        name = table.chosen if self.name == "auto" else self.name
        answer = next((entry for entry in table.candidates if entry.algorithm.name == name), None)
        if answer is None:
            raise Refused(f"{self.name} computes no {'convolution' if _is_conv(problem) else 'pooling'}")
        if answer.reason and not answer.on_request:
            raise Refused(answer.reason)
        way = table.direction
        return Prepared(
            self.name,
            fastconv_call(problem, direction, operands, self.name),
            answer.error,
            answer.workspace_bytes,
            ready=lambda: answer.algorithm.ready(problem, way),
            warm_up=fastconv_call(problem, direction, operands, self.name, with_bias=True),
            taken=partial(_taken, problem, way.value, None if self.name == "auto" else self.name),
        )


class ThroughPlan:
    """`Plan.run`: what is left of a call's cost when its problem is settled before."""

    name = "plan"

    def prepare(self, problem: Problem, direction: str, operands: Operands) -> Prepared:
        """Plan outside of what is timed."""
        if not isinstance(problem, fastconv.ConvProblem) or problem.axes != 2 or problem.channels_last:
            raise Refused("only conv2d of NCHW has plans that users run")
        plan = fastconv.plan_conv2d(
            problem.input_shape, problem.weight_shape, stride=problem.stride, padding=problem.pads,
            dilation=problem.dilation, groups=problem.groups, dtype=problem.dtype, direction=direction,
        )  # fmt: skip
        own: Any = operands
        first, second = {
            "forward": (own.input, own.weight),
            "backward_input": (own.grad_output, own.weight),
            "backward_weight": (own.grad_output, own.input),
        }[direction]
        taken = partial(_taken, problem, direction, plan.algorithm)
        return Prepared(self.name, partial(plan.run, first, second), plan.error, plan.workspace_bytes, taken=taken)


class HeldWeight:
    """`prepare_conv2d`: what a model for inference does, its weight packed or transformed before."""

    name = "prepared"

    def prepare(self, problem: Problem, direction: str, operands: Operands) -> Prepared:
        """Take the weight before each sample, outside of what is timed; results go where the last ones were."""
        if not isinstance(problem, fastconv.ConvProblem) or problem.axes != 2 or direction != "forward":
            raise Refused("only conv2d, forward, has weights that are prepared")
        own: Any = operands
        layout = "NHWC" if problem.channels_last else "NCHW"
        result = np.empty(problem.output_shape, problem.dtype)
        names: list[str] = []

        def build() -> Callable[[], Any]:
            held = fastconv.prepare_conv2d(
                own.weight, input_shape=problem.input_shape, stride=problem.stride, padding=problem.pads,
                dilation=problem.dilation, groups=problem.groups, data_format=layout,
            )  # fmt: skip
            names[:] = [held.algorithm]
            return partial(held, own.input, out=result)

        model = Rebuilt(build)
        model.refresh()
        answer = _answer(problem, direction, names[0])
        return Prepared(
            self.name, model, answer.error, answer.workspace_bytes, refresh=model.refresh, rebuilt=True,
            taken=lambda: _taken(problem, direction, names[0]),
        )  # fmt: skip


def _answer(problem: Problem, direction: str, algorithm: str | None) -> Any:
    """What the planner says of `algorithm` now; None: of the one that auto takes."""
    table = fastconv.explain(problem, direction=direction)
    name = algorithm or table.chosen
    return next(entry for entry in table.candidates if entry.algorithm.name == name)


def _taken(problem: Problem, direction: str, algorithm: str | None) -> Taken:
    answer = _answer(problem, direction, algorithm)
    return Taken(answer.algorithm.name, not answer.reason)


def _is_conv(problem: Problem) -> bool:
    return isinstance(problem, fastconv.ConvProblem)


def fastconv_call(
    problem: Problem, direction: str, operands: Operands, algorithm: str, with_bias: bool = False
) -> Callable[[], Any]:
    """The call of a public function that computes `direction` of `problem`, as a user would write it.

    `with_bias` adds the gradient of the bias to that of the weight; it is not timed, but compiled with it.
    """
    x: Any = operands
    layout = ("NDHWC" if problem.axes == 3 else "NHWC") if problem.channels_last else None
    named: dict[str, Any] = {"data_format": layout, "algorithm": algorithm}
    if isinstance(problem, fastconv.ConvProblem):
        named |= {
            "stride": _short(problem.stride), "padding": _short_pads(problem), "dilation": _short(problem.dilation),
            "groups": problem.groups,
        }  # fmt: skip
        if direction == "forward":
            return partial(_public(f"conv{problem.axes}d"), x.input, x.weight, **named)
        backward = _public(f"conv{problem.axes}d_backward")
        if direction == "backward_input":
            image = np.broadcast_to(problem_zero(problem), problem.input_shape)
            return partial(
                _pick, 0, backward, x.grad_output, image, x.weight, output_mask=(True, False, False), **named
            )
        weight = np.broadcast_to(problem_zero(problem), problem.weight_shape)
        return partial(
            _pick, 1, backward, x.grad_output, x.input, weight, output_mask=(False, True, with_bias), **named
        )
    named |= {
        "kernel_size": _short(problem.kernel), "stride": _short(problem.stride), "padding": _short_pads(problem),
        "ceil_mode": problem.ceil_mode,
    }  # fmt: skip
    if problem.kind == "max":
        named["dilation"] = _short(problem.dilation)
        pool, own = f"max_pool{problem.axes}d", {"indices": x.indices}
        if direction.startswith("forward"):
            return partial(_public(pool), x.input, return_indices=direction == "forward_indices", **named)
        return partial(_public(f"{pool}_backward"), x.grad_output, x.input, **named, **own)
    named |= {"count_include_pad": problem.count_include_pad, "divisor_override": problem.divisor_override}
    if direction == "forward":
        return partial(_public(f"avg_pool{problem.axes}d"), x.input, **named)
    return partial(_public(f"avg_pool{problem.axes}d_backward"), x.grad_output, problem.input_shape, **named)


def _short(values: tuple[int, ...]) -> int | tuple[int, ...]:
    """One int for all axes where they agree, as users write it."""
    return values[0] if len(set(values)) == 1 else values


def _short_pads(problem: Problem) -> int | tuple[tuple[int, int], ...]:
    """One int where all sides agree."""
    low = problem.pads[0][0]
    return low if problem.pads == ((low, low),) * problem.axes else problem.pads


def problem_zero(problem: Problem) -> np.ndarray:
    """One element: stands for an array of which a gradient needs the shape alone."""
    return np.zeros((), problem.dtype)


def _pick(index: int, function: Callable[..., tuple[Any, ...]], *args: Any, **named: Any) -> Any:
    return function(*args, **named)[index]


def _public(name: str) -> Callable[..., Any]:
    function: Callable[..., Any] | None = getattr(fastconv, name, None)
    if function is None:
        raise Refused(f"fastconv has no {name}")
    return function


def registered(family: str | None = None) -> list[str]:
    """Every algorithm's name, conv's first, in order of preference."""
    families = (family,) if family else ("conv", "pool")
    return list(dict.fromkeys(entry.name for name in families for entry in fastconv.algorithms(name)))


def find(algorithms: tuple[str, ...], peers: tuple[str, ...]) -> list[Candidate]:
    """The candidates by name; no algorithm named means all that are registered.

    Raises
    ------
    ValueError
        For a name that nothing is known under, or a peer that is not installed.
    """
    others: dict[str, Candidate] = {"plan": ThroughPlan(), "prepared": HeldWeight()}
    known = [*registered(), "auto", *others]
    if strange := [name for name in algorithms if name not in known]:
        raise ValueError(f"unknown algorithm {strange[0]!r}; the names are {', '.join(known)}")
    found: list[Candidate] = [others.get(name) or Algorithm(name) for name in algorithms or registered()]
    if peers:
        from bench.peers import find as find_peer

        found += [find_peer(name) for name in peers]
    return found


def allowance(prepared: Prepared, problem: Problem, direction: str) -> float:
    """Largest max|error| / max|result| with which a result counts as right: see `verify`.

    Eight times what the algorithm promises for its typical largest error: wide enough that a right result
    never fails, while a product left out of a sum of m shows as about 1 / sqrt(m), a thousand times more.
    Maxima must be exact; everything else may round its last bits.
    """
    exact = getattr(problem, "kind", None) == "max" and direction.startswith("forward")
    return 0.0 if exact else 8 * max(prepared.expected_error, _roundoff(problem))


def sum_error(problem: Problem, direction: str) -> float:
    """Expected max|error| / max|result| of sums in the problem's own precision: what a peer is held to."""
    if getattr(problem, "kind", None) == "max":
        return 0.0 if direction.startswith("forward") else 4 * _roundoff(problem)
    return _roundoff(problem) * (1 + float(np.sqrt(reduction(problem, direction))))


def _roundoff(problem: Problem) -> float:
    return 2.0**-24 if problem.dtype == "float32" else 2.0**-53
