"""One problem and direction: every candidate verified, timed in interleaved rounds, and verified again.

A round gives each candidate one sample, in an order drawn anew; between rounds the contents of the arrays
change in place. The i-th samples of two candidates belong to the same round, so that their ratio means
something on a machine whose clock wanders. The last round runs on twice the first contents, whose results are
known, and what its timed calls returned is what is verified at the end: nobody can have remembered anything.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from bench.candidates import Candidate, Prepared, Refused, allowance
from bench.data import Operands
from bench.presets import Problem

#: A sample takes at least so long: a hundred thousand times the clock's resolution, hundreds of its costs.
SAMPLE_SECONDS = 200e-6
LEAST_ROUNDS, MOST_ROUNDS = 5, 60


@dataclass
class Outcome:
    """What one candidate did: its samples, or why there are none."""

    name: str
    status: str = "timed"  # timed, refused, wrong, failed
    reason: str | None = None
    samples: list[float] = field(default_factory=list)  # seconds per call, one for each round
    calls: int = 1  # in each sample
    first_call: float | None = None  # seconds of the first call of all: planning, compiling, page faults
    compiled: bool = False  # whether that call compiled
    error: float | None = None  # max|error| / max|result| against float64
    allowed_error: float | None = None
    workspace_bytes: int | None = None
    algorithm: str | None = None  # fastconv's that computed; None for another library
    admitted: bool = False  # whether auto may take that algorithm


class Wrong(Exception):
    """A result that is not the right one."""


def verify(got: tuple[np.ndarray, ...], want: tuple[np.ndarray, ...], allowed: float, factor: float = 1.0) -> float:
    """Compare results with `factor` times `want`; return the largest error relative to the largest right value.

    Raises
    ------
    Wrong
        For another shape, a value that is not finite, an index that differs, or an error above `allowed`.
    """
    worst = 0.0
    for mine, right in zip(got, want, strict=True):
        if mine.shape != right.shape:
            raise Wrong(f"the result has shape {mine.shape}, not {right.shape}")
        if np.issubdtype(right.dtype, np.integer):
            if not np.array_equal(mine, right):
                raise Wrong(f"{np.count_nonzero(mine != right)} of {right.size} indices differ")
            continue
        if not np.isfinite(mine).all():  # before any maximum: a maximum would drop the NaN
            raise Wrong(f"{np.count_nonzero(~np.isfinite(mine))} of {mine.size} values are not finite")
        scale = factor * float(np.abs(right).max(initial=0.0)) or 1.0
        worst = max(worst, float(np.abs(mine - factor * right).max(initial=0.0)) / scale)
    if worst > allowed:
        raise Wrong(f"its error {worst:.2e} is above the {allowed:.2e} allowed")
    return worst


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out of the samples."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def sample(call: Callable[[], Any], calls: int) -> tuple[float, Any]:
    """Seconds per call over `calls` calls, and what the last one returned."""
    result = None
    start = perf_counter()
    for _ in range(calls):
        result = call()
    return (perf_counter() - start) / calls, result


def calibrate(call: Callable[[], Any], least: float = SAMPLE_SECONDS) -> int:
    """How many calls take at least `least` seconds together."""
    calls = 1
    while (total := sample(call, calls)[0] * calls) < least:
        calls = max(2 * calls, int(calls * least / max(total, 1e-9)) + 1)
    return calls


class Case:
    """One problem and direction with all its candidates."""

    def __init__(self, problem: Problem, direction: str, candidates: list[Candidate], seed: int = 0) -> None:
        self.problem, self.direction = problem, direction
        self.rng = np.random.default_rng([seed, 1])
        self.operands = Operands(problem, direction, seed)
        self.outcomes = {candidate.name: Outcome(candidate.name) for candidate in candidates}
        self.prepared: dict[str, Prepared] = {}
        #: (round, name) in the order in which samples were taken.
        self.order: list[tuple[int, str]] = []
        self._want = self.operands.expected()
        for candidate in candidates:
            self._get_ready(candidate)

    def _get_ready(self, candidate: Candidate) -> None:
        """Prepare, make the first call, verify it, and see to it that nothing compiles from here on."""
        outcome = self.outcomes[candidate.name]
        try:
            prepared = candidate.prepare(self.problem, self.direction, self.operands)
        except (Refused, NotImplementedError, MemoryError) as refusal:
            outcome.status, outcome.reason = "refused", str(refusal)
            return
        outcome.workspace_bytes = prepared.workspace_bytes
        outcome.allowed_error = allowance(prepared, self.problem, self.direction)
        self.prepared[candidate.name] = prepared
        with self._blamed(candidate.name):
            outcome.compiled = not prepared.ready()
            prepared.refresh()
            outcome.first_call, result = sample(prepared.call, 1)
            outcome.error = verify(prepared.results(result), self._want, outcome.allowed_error)
            if not prepared.ready():
                prepared.warm_up()
            if not prepared.ready():
                raise RuntimeError("still not ready after its first call: a timed round would compile")
            outcome.calls = calibrate(prepared.call)

    @contextmanager
    def _blamed(self, name: str) -> Iterator[None]:
        """Whatever goes wrong belongs to this candidate alone, and ends its part."""
        try:
            yield
        except Exception as problem:  # any fault of a candidate is a row of the report, not the end of the run
            outcome = self.outcomes[name]
            outcome.status = "wrong" if isinstance(problem, Wrong) else "failed"
            outcome.reason = str(problem) or type(problem).__name__
            outcome.samples = []
            self.prepared.pop(name, None)

    def measure(self, seconds: float, least_rounds: int = LEAST_ROUNDS) -> list[Outcome]:
        """Take rounds for about `seconds`, at least `least_rounds` of them, and verify the last one."""
        end = perf_counter() + seconds
        count = 0
        while self.prepared:
            count += 1
            started = perf_counter()
            enough = count >= least_rounds and (started >= end or count >= MOST_ROUNDS)
            if not enough:
                self.operands.change(self.rng)
                self._round(count)
                continue
            factor = self.operands.double()
            self._verify_again(self._round(count), factor)
            break
        for name, prepared in self.prepared.items():
            self.outcomes[name].algorithm, self.outcomes[name].admitted = prepared.taken()
        return list(self.outcomes.values())

    def _round(self, number: int) -> dict[str, Any]:
        """One sample of every candidate, in random order; what each returned.

        A model that was just built allocates in its first call. That one is not timed; and where there is such a
        model, every candidate makes a call before its sample, so that all find their arrays in the caches alike.
        """
        names = list(self.prepared)
        warm = any(prepared.rebuilt for prepared in self.prepared.values())
        self.rng.shuffle(names)
        results = {}
        for name in names:
            self.order.append((number, name))
            with self._blamed(name), _no_collection():
                prepared = self.prepared[name]
                prepared.refresh()
                if warm:
                    prepared.call()
                outcome = self.outcomes[name]
                seconds, results[name] = sample(prepared.call, outcome.calls)
                outcome.samples.append(seconds)
        return results

    def _verify_again(self, results: dict[str, Any], factor: float) -> None:
        for name, prepared in list(self.prepared.items()):
            with self._blamed(name):
                outcome = self.outcomes[name]
                allowed = outcome.allowed_error or 0.0
                try:
                    verify(prepared.results(results[name]), self._want, allowed, factor)
                except Wrong as wrong:
                    raise Wrong(f"after timing: {wrong}") from None
