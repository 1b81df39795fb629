"""`explain`: the planner's question, answered as a table; and the list of what is registered."""

from __future__ import annotations

from dataclasses import dataclass

from fastconv import planner, settings
from fastconv.algorithm import FUSED_ACTIVATIONS, Direction
from fastconv.errors import shown
from fastconv.problem import Problem


@dataclass(frozen=True)
class AlgorithmInfo:
    """A registered name; `reason` says why it cannot run on this installation, if so."""

    name: str
    available: bool
    reason: str | None
    fused_activations: tuple[str, ...]


def algorithms(family: str = "conv") -> list[AlgorithmInfo]:
    """The registered algorithms of a family, in order of preference.

    Parameters
    ----------
    family : {"conv", "pool"}

    Returns
    -------
    list of AlgorithmInfo

    Raises
    ------
    ValueError
        For another family.

    Examples
    --------
    >>> import fastconv
    >>> [entry.name for entry in fastconv.algorithms("pool") if entry.name == "naive"]
    ['naive']
    """
    if family not in planner.REGISTRY:
        raise ValueError(f"unknown family {shown(family)}; the families are {', '.join(planner.REGISTRY)}")
    fused = FUSED_ACTIVATIONS if family == "conv" else ()
    return [
        AlgorithmInfo(entry.name, (reason := entry.unavailable()) is None, reason, fused)
        for entry in planner.REGISTRY[family]
    ]


#: Law 5 of algorithm.py.
_CAVEAT = "Another number of threads, or a kernel compiled meanwhile, may change the choice."


@dataclass(frozen=True)
class Explanation:
    """Every algorithm's answer to one problem and direction; prints itself as a table."""

    problem: Problem
    direction: Direction
    threads: int
    candidates: tuple[planner.Candidate, ...]
    #: Name of the chosen algorithm, None when none is admissible.
    chosen: str | None
    #: Whether use() or configure() asked for it.
    preferred: bool
    #: Whether `tune` timed it here, and it was the fastest.
    tuned: bool

    def __str__(self) -> str:
        rows = [("", "algorithm", "time", "workspace", "error", "note")]
        for candidate in self.candidates:
            name = candidate.algorithm.name
            mark = "->" if name == self.chosen else ""
            if candidate.reason and not candidate.on_request:
                figures = ("-", "-", "-")
            else:
                figures = (_time(candidate.cost), _bytes(candidate.workspace_bytes), f"{candidate.error:.1e}")
            rows.append((mark, name, *figures, self._note(candidate)))
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        work = f"{2 * self.problem.macs / 1e9:.3g} GFLOP, {_bytes(self.problem.bytes)} at least moved"
        head = f"{self.problem} {self.direction}, {self.threads} thread{'s' * (self.threads > 1)}: {work}"
        return "\n".join([head, *lines, _CAVEAT])

    def _note(self, candidate: planner.Candidate) -> str:
        """Why it was chosen, or why not."""
        if candidate.algorithm.name == self.chosen:
            if self.preferred:
                return "chosen: preferred by use() or configure()"
            return "chosen: the fastest when tuned" if self.tuned else "chosen: least estimated time"
        if candidate.reason:
            return candidate.reason
        (chosen,) = (entry for entry in self.candidates if entry.algorithm.name == self.chosen)
        return f"{candidate.cost / chosen.cost:.2g} times the estimate of the chosen"

    __repr__ = __str__


def _time(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def _bytes(count: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.0f} {unit}" if count >= 100 * scale else f"{count / scale:.3g} {unit}"
    return f"{count} B"


def explain_problem(problem: Problem, direction: Direction) -> Explanation:
    """Ask every algorithm about `problem`, and say which one a call without a name would take, and why."""
    using = settings.current()
    found = planner.candidates(problem, direction, using)
    try:
        chosen = planner.choose(found, problem, direction, None, using).algorithm.name
    except (NotImplementedError, MemoryError):
        chosen = None
    preferred = chosen in using.preference(planner.family_of(problem))
    count = settings.get_num_threads()
    tuned = chosen is not None and chosen == planner.tuned_choice(problem, direction, using)
    return Explanation(problem, direction, count, tuple(found), chosen, preferred, tuned)
