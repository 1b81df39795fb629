"""Who computes this, and why not the others: one place where an implementation is chosen.

`plan` filters the registry by three questions that only an algorithm can answer (is it available, does it refuse,
would it compile first), by the user's tolerance and workspace, and takes the cheapest of what is left. The answer
is cached, so that a call of a known shape costs a dictionary look-up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from fastconv import conv, jit, pool, settings, store, threads, workspace
from fastconv.algorithm import Algorithm, Direction, Epilogue, direct_error
from fastconv.errors import UnsupportedProblem, shown
from fastconv.machine import machine
from fastconv.problem import ConvProblem, Ints, PoolProblem, Problem

#: Every implementation, per family, in order of preference.
REGISTRY: dict[str, tuple[Algorithm, ...]] = {"conv": conv.ALGORITHMS, "pool": pool.ALGORITHMS}

for _family, _algorithms in REGISTRY.items():
    settings.known_names[_family] = tuple(
        dict.fromkeys(name for algorithm in _algorithms for name in (algorithm.group, algorithm.name) if name)
    )


def family_of(problem: Problem) -> str:
    """Name of the registry that computes `problem`."""
    return "conv" if isinstance(problem, ConvProblem) else "pool"


@dataclass(frozen=True)
class Plan:
    """One algorithm settled for one problem and direction.

    Attributes
    ----------
    problem : ConvProblem or PoolProblem
    direction : Direction
    algorithm : str
        The chosen one.
    cost : float
        Estimated seconds.
    error : float
        Expected max|error| / max|result| on independent N(0, 1) data.
    workspace_bytes : int
        Scratch granted to each call.
    threads : int
        Threads it may use.
    """

    problem: Problem
    direction: Direction
    algorithm: str
    cost: float
    error: float
    workspace_bytes: int
    threads: int
    _implementation: Algorithm

    def execute(self, *arguments: Any) -> None:
        """Run on arrays and results that are as the contract wants them (algorithm.py); functional's way in."""
        with workspace.scratch(self.workspace_bytes) as granted:
            self._compute(self.problem, *arguments, granted, self.threads)

    @cached_property
    def checks_indices(self) -> bool:
        """Whether the algorithm finds indices of a maximum that lie outside; else its caller looks first."""
        return self._implementation.checks_indices and self.problem.axes == 2

    def run(self, *arrays: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        """Compute the result of this convolution plan.

        Parameters
        ----------
        *arrays : ndarray
            forward: input, weight. backward_input: grad_output, weight. backward_weight: grad_output, input. Each
            has exactly the shape and dtype of the problem; odd strides are copied.
        bias : ndarray, optional
            (out_channels,), forward only.

        Returns
        -------
        ndarray
            The output, grad_input or grad_weight.

        Raises
        ------
        ValueError, TypeError
            When an array is not of the problem's shape or dtype, or the plan is one of a pool.

        Examples
        --------
        >>> import numpy as np, fastconv
        >>> plan = fastconv.plan_conv2d((1, 3, 8, 8), (4, 3, 3, 3))
        >>> plan.run(np.zeros((1, 3, 8, 8), np.float32), np.zeros((4, 3, 3, 3), np.float32)).shape
        (1, 4, 6, 6)
        """
        if len(arrays) != 2:
            raise TypeError(f"a {self.direction} plan runs on two arrays, got {len(arrays)}")
        (name, shape), (second_name, second_shape), result_shape, dtype, allocate, last = self._signature
        one, two = arrays
        if not (type(one) is np.ndarray and one.dtype is dtype and one.shape == shape and one.flags.carray):
            one = _operand(one, name, shape, dtype)
        if not (type(two) is np.ndarray and two.dtype is dtype and two.shape == second_shape and two.flags.carray):
            two = _operand(two, second_name, second_shape, dtype)
        if bias is not None:
            if self.direction is not Direction.FORWARD:
                raise ValueError(f"bias belongs to a forward plan, this one is {self.direction}")
            last = Epilogue(_operand(bias, "bias", second_shape[:1], dtype))
        if not self.problem.batch:
            return np.zeros(result_shape, dtype)
        result = allocate(result_shape, dtype)
        with workspace.scratch(self.workspace_bytes) as granted:
            self._compute(self.problem, one, two, result, last, granted, self.threads)
        return result

    @cached_property
    def _compute(self) -> Callable[..., None]:
        return self._implementation.direction(self.problem, self.direction)

    @cached_property
    def _signature(
        self,
    ) -> tuple[tuple[str, Ints], tuple[str, Ints], Ints, np.dtype, Callable[..., np.ndarray], Epilogue | None]:
        """(name, shape) of the two operands of `run`, the result's shape, the dtype of all, where the result comes
        from, and what the algorithm is given after it: no epilogue, or no gradient of a bias."""
        problem = self.problem
        if not isinstance(problem, ConvProblem):
            raise TypeError("only a convolution's plan can be run; pools have their functions")
        input, weight = ("input", problem.input_shape), ("weight", problem.weight_shape)
        grad_output = ("grad_output", problem.output_shape)
        first, second, result = {
            Direction.FORWARD: (input, weight, grad_output),
            Direction.BACKWARD_INPUT: (grad_output, weight, input),
            Direction.BACKWARD_WEIGHT: (grad_output, input, weight),
        }[self.direction]
        last = None if self.direction is Direction.BACKWARD_WEIGHT else Epilogue()
        allocate = np.empty if math.prod(result[1]) < workspace.LARGE_RESULT else workspace.result
        return first, second, result[1], np.dtype(problem.dtype), allocate, last


def _operand(array: np.ndarray, name: str, shape: Ints, dtype: np.dtype) -> np.ndarray:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array; fill it first")
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        raise TypeError(f"{name} must be a {dtype} array, got {getattr(array, 'dtype', type(array).__name__)}")
    if array.shape != shape:
        raise ValueError(f"{name} must have the plan's shape {shape}, got {array.shape}")
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.require(array, dtype, ["C", "A"])


@dataclass(frozen=True)
class Candidate:
    """One algorithm's answer to a problem: what it would cost, or why it cannot (`reason`)."""

    algorithm: Algorithm
    reason: str | None
    #: Whether a user who names it gets it in spite of the reason (it only has to compile, or errs more).
    on_request: bool
    cost: float = 0.0
    error: float = 0.0
    workspace_bytes: int = 0


def _candidate(algorithm: Algorithm, problem: Problem, direction: Direction, using: settings.Settings) -> Candidate:
    reason = algorithm.unavailable() or algorithm.refusal(problem, direction)
    if reason:
        return Candidate(algorithm, reason, on_request=False)
    count = using.threads or threads.get_num_threads()
    least, best = algorithm.workspace_bytes(problem, direction, count)
    error = algorithm.error(problem, direction)
    cost = algorithm.cost(problem, direction, count, machine())
    granted = max(least, min(best, using.workspace_limit))
    on_request = True
    if least > using.workspace_limit:
        reason, on_request = f"needs {least} bytes of workspace, the limit is {using.workspace_limit}", False
    elif algorithm.transforms and not using.tolerance:
        reason = "a tolerance of 0 admits no transform"
    elif error > max(using.tolerance, 2 * direct_error(problem, direction)):
        reason = f"its expected error {error:.1e} is above the tolerance {using.tolerance:.1e}"
    elif not algorithm.ready(problem, direction):
        reason = "its first call would compile"
    return Candidate(algorithm, reason, on_request, cost, error, granted)


def candidates(problem: Problem, direction: Direction, using: settings.Settings | None = None) -> list[Candidate]:
    """Every registered algorithm's answer, in order of preference."""
    using = using or settings.current()
    if direction is Direction.BACKWARD_WEIGHT and isinstance(problem, PoolProblem):
        raise ValueError("pooling has no weight to differentiate by")
    return [_candidate(algorithm, problem, direction, using) for algorithm in REGISTRY[family_of(problem)]]


def _refuse(candidate: Candidate, problem: Problem, direction: Direction) -> Exception:
    message = f"{candidate.algorithm.name} cannot compute {problem} {direction}: {candidate.reason}"
    return MemoryError(message) if candidate.workspace_bytes else UnsupportedProblem(message)


def _called(found: list[Candidate], name: str) -> Candidate:
    """The candidate of that name; of a group the cheapest that is admissible, else the one that errs least."""
    called = [candidate for candidate in found if name in (candidate.algorithm.name, candidate.algorithm.group)]
    admissible = [candidate for candidate in called if not candidate.reason]
    if admissible:
        return min(admissible, key=lambda candidate: candidate.cost)
    return min(called, key=lambda candidate: (not candidate.on_request, candidate.error))


def choose(
    found: list[Candidate], problem: Problem, direction: Direction, algorithm: str | None, using: settings.Settings
) -> Candidate:
    """The candidate that runs: the one named in the call, else the preferred one, else the cheapest."""
    if algorithm is not None and algorithm != "auto":
        (name,) = settings.check_names([algorithm], [family_of(problem)])
        called = _called(found, name)
        if called.reason and not called.on_request:
            raise _refuse(called, problem, direction)
        return called
    preferred = using.preference(family_of(problem)) if algorithm is None else ()
    for called in (_called(found, name) for name in preferred):
        if not called.reason or called.on_request:
            return called
    if preferred and using.strict:
        raise _refuse(_called(found, preferred[0]), problem, direction)
    admissible = [candidate for candidate in found if not candidate.reason]
    tuned = tuned_choice(problem, direction, using)
    for candidate in admissible:
        if candidate.algorithm.name == tuned:
            return candidate
    if not admissible:
        tight = [candidate for candidate in found if candidate.workspace_bytes]
        raise _refuse((tight or found)[-1], problem, direction)
    return min(admissible, key=lambda candidate: candidate.cost)


@lru_cache(maxsize=1)
def _tuned() -> dict[str, str]:
    """What `tune` found, from the user's cache directory: a name by problem, direction and settings."""
    found = store.read("tuned", machine().fingerprint)
    return found if isinstance(found, dict) else {}


def _tuned_key(problem: Problem, direction: Direction, using: settings.Settings) -> str:
    """With all that decides who is timed, and how fast they are."""
    count = using.threads or threads.get_num_threads()
    limits = f"tolerance {using.tolerance} workspace {using.workspace_limit}"
    return f"{problem} {direction} x{count} {machine().level} {limits}"


def tuned_choice(problem: Problem, direction: Direction, using: settings.Settings) -> str | None:
    """The algorithm that was the fastest when `tune` timed them here under such settings."""
    return _tuned().get(_tuned_key(problem, direction, using))


def remember_tuned(found: dict[tuple[Problem, Direction], str], using: settings.Settings) -> None:
    """Take these algorithms from now on, and in processes to come if the disk can be written."""
    changes = {_tuned_key(*key, using): name for key, name in found.items()}
    _tuned().update(changes)
    store.update("tuned", machine().fingerprint, changes)
    forget_plans()


@lru_cache(maxsize=4096)
def _plan(
    problem: Problem, direction: Direction, algorithm: str | None, using: settings.Settings, count: int, compiled: int
) -> Plan:
    """`compiled` is no more than a part of the key: what was compiled meanwhile may be the better choice now."""
    chosen = choose(candidates(problem, direction, using), problem, direction, algorithm, using)
    return Plan(
        problem, direction, chosen.algorithm.name, chosen.cost, chosen.error, chosen.workspace_bytes, count,
        chosen.algorithm,
    )  # fmt: skip


def plan(problem: Problem, direction: Direction, algorithm: str | None = None, exactly: bool = False) -> Plan:
    """Settle which algorithm computes `problem`; cached per problem, direction and settings.

    `exactly`: a transform is taken only by name, whatever the tolerance.

    Raises
    ------
    ValueError
        For a name that nothing is registered under.
    UnsupportedProblem
        When the algorithm named cannot compute it.
    MemoryError
        When the least workspace exceeds the limit; the message states the bytes.
    """
    if algorithm is not None and not isinstance(algorithm, str):
        raise TypeError(f"algorithm must be a name or None, got {shown(algorithm)}")
    using = settings.current()
    if exactly:
        using = replace(using, tolerance=0.0)
    count = using.threads or threads.get_num_threads()
    return _plan(problem, direction, algorithm, using, count, jit.generation())


def implementation(settled: Plan) -> Algorithm:
    """The algorithm behind a plan."""
    return settled._implementation


def forget_plans() -> None:
    """Drop the cached plans: after something was measured or tuned."""
    _plan.cache_clear()
