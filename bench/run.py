"""A whole preset: problems x directions x threads, each with all its candidates, written as rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import threadpoolctl
from tqdm import tqdm

import fastconv
import fastconv.limits
from bench import environment, peers, records
from bench.candidates import Candidate, find
from bench.measure import LEAST_ROUNDS, Case, Outcome
from bench.presets import Preset, Problem, directions_of, moved_bytes
from bench.statistics import summarise

#: Share of the time for measuring the machine's limits, before the rows and (a third of it) after them.
LIMITS_SHARE = 0.03


@dataclass(frozen=True)
class Task:
    """One case to measure."""

    threads: int
    problem: Problem
    direction: str


def tasks(preset: Preset) -> list[Task]:
    """All cases of a preset, thread counts outermost: the limits are measured once for each."""
    threads = preset.threads or (fastconv.machine().cores,)
    return [
        Task(count, problem, direction)
        for count in threads
        for problem in preset.problems()
        for direction in directions_of(problem)
        if direction in preset.directions
    ]


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Give every engine of this process so many threads, ours, BLAS and the peers."""
    before = fastconv.get_num_threads()
    fastconv.set_num_threads(threads)
    peers.set_num_threads(threads)
    try:
        with threadpoolctl.threadpool_limits(threads, user_api="blas"):
            yield
    finally:
        fastconv.set_num_threads(before)


def row(task: Task, outcome: Outcome) -> dict[str, Any]:
    """One candidate's line of the record."""
    problem = task.problem
    fields = {
        "family": "conv" if isinstance(problem, fastconv.ConvProblem) else problem.kind,
        "problem": str(problem),
        "direction": task.direction,
        "threads": task.threads,
        "macs": problem.macs,
        "bytes": moved_bytes(problem, task.direction),
        **asdict(outcome),
    }
    if outcome.samples:
        fields |= summarise(outcome.samples)._asdict()
    return fields


class Clock:
    """Shares a preset's time among the cases that are left; a case that needs less leaves it to the others."""

    #: Beyond so many times the preset's seconds, what is left is not timed.
    STOP = 1.5

    def __init__(self, seconds: float, cases: int) -> None:
        self._seconds, self._left, self._used = seconds, cases, 0.0

    def next(self) -> float | None:
        """Seconds for the next case; 0 when the time is used up; None when it is far exceeded."""
        share = max(self._seconds - self._used, 0.0) / max(self._left, 1)
        self._left -= 1
        return None if self._used > self.STOP * self._seconds else share

    def spend(self, seconds: float) -> None:
        """Count what a case took; what the limits take is not counted."""
        self._used += seconds


def execute(preset: Preset, path: Path, command: str, *, seed: int = 0, store_limits: bool = True) -> Path:
    """Measure `preset` and write its records to `path`, with a progress bar on standard error."""
    candidates = find(preset.algorithms, preset.peers)
    work = tasks(preset)
    clock = Clock(preset.seconds, len(work))
    with records.writing(path) as writer:
        head = {"preset": preset.name, "title": preset.title, "command": command, "seed": seed}
        head |= {"sweeps": [sweep.as_dict() for sweep in preset.sweeps], "layers": [asdict(x) for x in preset.layers]}
        head |= {"candidates": [candidate.name for candidate in candidates], "peers": list(preset.peers)}
        writer.write("run", schema=records.SCHEMA, **head, environment=environment.describe())
        started = perf_counter()
        with tqdm(total=len(work), unit="case", dynamic_ncols=True, desc=preset.name) as bar:
            for threads in dict.fromkeys(task.threads for task in work):
                with using_threads(threads):
                    _limits(writer, preset, threads, "before", store_limits)
                    for number, task in enumerate(work):
                        if task.threads == threads:
                            bar.set_postfix_str(f"{task.problem} {task.direction}", refresh=False)
                            _case(writer, task, candidates, clock, [seed, number])
                            bar.update()
                    _limits(writer, preset, threads, "after", False)
        writer.write("end", seconds=perf_counter() - started, load=environment.load(), blas=environment.blas())
    return path


def _limits(writer: records.Writer, preset: Preset, threads: int, when: str, store: bool) -> None:
    """Measure what this machine can do now; the second time shows whether it stayed the same."""
    seconds = min(max(LIMITS_SHARE * preset.seconds, 0.3), 4.0) * (1.0 if when == "before" else 0.4)
    measured = fastconv.limits.measure(seconds, threads, store=store)
    writer.write("limits", when=when, level=fastconv.machine().level, **measured.as_dict())


def _case(writer: records.Writer, task: Task, candidates: list[Candidate], clock: Clock, seed: list[int]) -> None:
    seconds = clock.next()
    if seconds is None:
        reason = "not timed: the preset's time was used up"
        outcomes = [Outcome(candidate.name, "refused", reason) for candidate in candidates]
    else:
        number = int(np.random.SeedSequence(seed).generate_state(1)[0])
        started = perf_counter()
        case = Case(task.problem, task.direction, _of_family(task.problem, candidates), number)
        outcomes = case.measure(seconds - (perf_counter() - started), LEAST_ROUNDS if seconds else 3)
        clock.spend(perf_counter() - started)
    for outcome in outcomes:
        writer.write("row", **row(task, outcome))


def _of_family(problem: Problem, candidates: list[Candidate]) -> list[Candidate]:
    """Leave out algorithms that are registered for the other family only: they are no part of this row."""
    family = "conv" if isinstance(problem, fastconv.ConvProblem) else "pool"
    own = {entry.name for entry in fastconv.algorithms(family)}
    others = {entry.name for name in ("conv", "pool") for entry in fastconv.algorithms(name)} - own
    return [candidate for candidate in candidates if candidate.name not in others]


def table(run: records.Run) -> str:
    """A run's rows as text: what `--problems` prints."""
    lines = [("problem", "direction", "threads", "candidate", "median", "spread", "rate", "first call")]
    for entry in run.rows:
        who = (entry["problem"], entry["direction"], str(entry["threads"]), entry["name"])
        if entry["status"] != "timed":
            lines.append((*who, f"{entry['status']}: {entry['reason']}", "", "", ""))
            continue
        spread = (entry["high"] - entry["low"]) / entry["median"]
        work, unit = (2 * entry["macs"], "GFLOP/s") if entry["family"] == "conv" else (entry["bytes"], "GB/s")
        rate = f"{work / entry['median'] / 1e9:.1f} {unit}"
        times = (f"{entry['median'] * 1e6:.1f} us", f"{spread:.0%}", rate, f"{entry['first_call'] * 1e3:.2f} ms")
        lines.append((*who, *times))
    widths = [max(len(line[column]) for line in lines if line[5] or column < 4) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
