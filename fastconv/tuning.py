"""`tune`: times the algorithms on the problems that a program has, and remembers which was the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from fastconv import planner, settings
from fastconv.algorithm import Direction, Epilogue
from fastconv.errors import shown
from fastconv.problem import ConvProblem, PoolProblem, Problem
from fastconv.problem_text import parse_problem

#: Candidates whose estimate is above so many times the least are not timed: estimates are right to a factor of 2.
FAR = 4.0
#: Rounds in which candidates take turns, and seconds after which no other round begins.
ROUNDS, SECONDS = 7, 0.5


class Tuned(NamedTuple):
    """What `tune` found for one problem and direction."""

    problem: Problem
    direction: str
    threads: int
    #: The fastest.
    algorithm: str
    #: The least time of each candidate.
    seconds: dict[str, float]


def _operands(problem: Problem, direction: Direction) -> tuple[Any, ...]:
    """Arguments of a plan's execute, with a result to write."""
    random = np.random.default_rng(0)

    def normal(shape: tuple[int, ...]) -> np.ndarray:
        return random.standard_normal(shape).astype(problem.dtype)

    x, dy = normal(problem.input_shape), normal(problem.output_shape)
    if isinstance(problem, ConvProblem):
        w = normal(problem.weight_shape)
        if direction is Direction.FORWARD:
            return x, w, dy, Epilogue()
        return (dy, w, x, Epilogue()) if direction is Direction.BACKWARD_INPUT else (dy, x, w, None)
    if direction is Direction.FORWARD:
        return x, dy, None
    indices = None
    if problem.kind == "max":
        indices = np.empty(problem.output_shape, np.int64)
        planner.plan(problem, Direction.FORWARD).execute(x, np.empty_like(dy), indices)
    return dy, None, indices, np.empty_like(x)


def _timed(calls: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Least time of each call, taking turns."""
    for call in calls.values():
        call()
    least = dict.fromkeys(calls, float("inf"))
    end = perf_counter() + SECONDS
    for round in range(ROUNDS):
        for name, call in calls.items():
            start = perf_counter()
            call()
            least[name] = min(least[name], perf_counter() - start)
        if perf_counter() > end and round:
            break
    return least


def _tune(problem: Problem, direction: Direction) -> Tuned:
    using, count = settings.current(), settings.get_num_threads()
    admissible = [found for found in planner.candidates(problem, direction, using) if not found.reason]
    nearest = min(found.cost for found in admissible)
    names = [found.algorithm.name for found in admissible if found.cost <= FAR * nearest]
    arguments = _operands(problem, direction)
    plans = {name: planner.plan(problem, direction, name) for name in names}
    seconds = _timed({name: lambda plan=plan: plan.execute(*arguments) for name, plan in plans.items()})  # type: ignore[misc]
    return Tuned(problem, str(direction), count, min(seconds, key=lambda name: seconds[name]), seconds)


def tune(problems: Iterable[Problem | str]) -> list[Tuned]:
    """Time the algorithms on problems in every direction, and let later calls take the fastest.

    What is found holds for this machine, and for the number of threads, the tolerance and the workspace limit in force.
    It is kept in the user's cache directory, for the next process, too. Only algorithms that would not have to compile
    are timed.

    Parameters
    ----------
    problems : iterable of ConvProblem, PoolProblem or str
        Texts as `parse_problem` reads them.

    Returns
    -------
    list of Tuned
        For each problem and direction: the fastest, and the seconds of each.

    Raises
    ------
    TypeError
        For something that is no problem.
    InvalidProblem
        For a text that describes none.

    Examples
    --------
    >>> import fastconv
    >>> [found.direction for found in fastconv.tune(["f32_n1c5h7w11_k6r3s3"])]
    ['forward', 'backward_input', 'backward_weight']
    """
    if isinstance(problems, (str, ConvProblem, PoolProblem)):
        raise TypeError(f"problems must be a list of problems, got {shown(problems)}")
    parsed = [parse_problem(problem) if isinstance(problem, str) else problem for problem in problems]
    for problem in parsed:
        if not isinstance(problem, (ConvProblem, PoolProblem)):
            raise TypeError(f"problems must be problems or their texts, got {shown(problem)}")
    found = [
        _tune(problem, direction)
        for problem in parsed
        if problem.batch
        for direction in Direction
        if isinstance(problem, ConvProblem) or direction is not Direction.BACKWARD_WEIGHT
    ]
    chosen = {(entry.problem, Direction(entry.direction)): entry.algorithm for entry in found}
    planner.remember_tuned(chosen, settings.current())
    return found
