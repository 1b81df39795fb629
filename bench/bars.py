"""What a preset demands of a run, judged: a geometric mean and a worst row for each bar.

A row's figure is, by the bar's measure,

    ratio     the fastest peer's time / ours, paired per round: above 1 we are faster
    peak      our share of the multiply-add peak that the same run measured, at the row's thread count
    copy      our share of the copy speed that the same run measured
    scaling   our speed-up from 1 thread to the row's, as a share of what peak (or copy) itself scales
    time      the microseconds allowed / ours
    regret    the time of the fastest algorithm that auto may take / ours, paired per round: 1 is the best choice

A row that our candidate refuses, or gets wrong, counts as 0. Rows in which the fastest peer takes under 100 us
are judged apart: each must reach 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import fastconv
from bench.presets import Bar
from bench.records import Run
from bench.statistics import geometric_mean, paired_ratio

APART_SECONDS, APART_BAR = 100e-6, 0.5


@dataclass
class Verdict:
    """One bar with what was reached."""

    bar: Bar
    figures: dict[str, float] = field(default_factory=dict)  # row -> figure
    apart: dict[str, float] = field(default_factory=dict)  # rows in which the peer takes under 100 us
    missing: list[str] = field(default_factory=list)  # rows without a peer's time, or without limits

    @property
    def mean(self) -> float:
        """Geometric mean over the rows; NaN of none."""
        return geometric_mean(list(self.figures.values()))

    @property
    def judged(self) -> bool:
        """Whether there was any row to judge."""
        return bool(self.figures or self.apart)

    @property
    def worst(self) -> tuple[str, float]:
        """The row with the smallest figure, of the share of rows that the bar asks about."""
        rising = sorted(self.figures.items(), key=lambda item: item[1])
        spared = int((1 - self.bar.share) * len(rising) + 1e-9)  # 0.05 of 20 is one row, whatever is rounded
        return rising[spared] if rising else ("", math.nan)

    @property
    def reached(self) -> bool:
        """Whether mean, worst row and the rows apart are all at or above what is demanded."""
        enough = self.mean >= self.bar.geometric_mean and self.worst[1] >= self.bar.worst  # False for NaN
        return enough and not self.missing and all(value >= APART_BAR for value in self.apart.values())


def judge(bars: Sequence[Bar], run: Run) -> list[Verdict]:
    """Every bar against the rows of a run."""
    return [_judge(bar, run) for bar in bars]


def _judge(bar: Bar, run: Run) -> Verdict:
    verdict = Verdict(bar)
    cases: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for row in run.rows:
        cases.setdefault((row["problem"], row["direction"], row["threads"]), {})[row["name"]] = row
    for (text, direction, threads), rows in cases.items():
        if bar.candidate not in rows or not selected(bar.select or {}, rows[bar.candidate]):
            continue
        if bar.measure == "scaling" and threads == 1:
            continue
        label = f"{text} {direction} x{threads}"
        ours = rows[bar.candidate]
        if ours["status"] != "timed":
            verdict.figures[label] = 0.0
            continue
        if bar.measure == "regret":
            figure = _regret(ours, rows)
            if figure is None:
                verdict.missing.append(label)
            else:
                verdict.figures[label] = figure
            continue
        if bar.measure == "ratio":
            timed = [rows[name] for name in bar.against if rows.get(name, {}).get("status") == "timed"]
            if not timed:
                verdict.missing.append(label)
                continue
            figure = min(paired_ratio(peer["samples"], ours["samples"]) for peer in timed)
            quick = min(peer["median"] for peer in timed) < APART_SECONDS
            (verdict.apart if quick else verdict.figures)[label] = figure
            continue
        if bar.measure == "time":
            verdict.figures[label] = bar.microseconds * 1e-6 / ours["median"]
            continue
        alone = cases.get((text, direction, 1), {}).get(bar.candidate)
        share = _scaling(ours, alone, run) if bar.measure == "scaling" else share_of(bar.measure, ours, run)
        if share is None:
            verdict.missing.append(label)
        else:
            verdict.figures[label] = share
    return verdict


def _regret(ours: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Time of the fastest of the algorithms that were timed under their own names and that auto may take, over ours."""
    named = [row for name, row in rows.items() if row.get("algorithm") == name and row.get("admitted")]
    return min((paired_ratio(row["samples"], ours["samples"]) for row in named if row["samples"]), default=None)


def share_of(measure: str, row: Mapping[str, Any], run: Run) -> float | None:
    """A timed row's share of the peak, or of the copy speed; None where the run did not measure that."""
    limits = run.limits_at(row["threads"])
    if not limits or row["status"] != "timed":
        return None
    if measure == "copy":
        return float(row["bytes"] / row["median"] / 1e9 / limits["copy_memory"])
    return float(2 * row["macs"] / row["median"] / 1e9 / peak(limits, row["problem"]))


def peak(limits: Mapping[str, Any], problem: str) -> float:
    """GFLOP/s of all threads together in the problem's precision."""
    if fastconv.parse_problem(problem).dtype == "float32":
        return float(limits["threads_float32"])
    single = limits["float64"][limits["level"]] / limits["float32"][limits["level"]]
    return float(limits["threads_float32"] * single)


def _scaling(row: Mapping[str, Any], alone: Mapping[str, Any] | None, run: Run) -> float | None:
    limits, single = run.limits_at(row["threads"]), run.limits_at(1)
    if not limits or not single or alone is None or alone["status"] != "timed":
        return None
    key = "threads_float32" if row["family"] == "conv" and not _depthwise(row["problem"]) else "copy_memory"
    return float(alone["median"] / row["median"] / (limits[key] / single[key]))


def _depthwise(text: str) -> bool:
    problem = fastconv.parse_problem(text)
    return isinstance(problem, fastconv.ConvProblem) and problem.group_in_channels == 1


def selected(select: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether a bar is about this row.

    `family` (conv, max, avg), `directions`, `threads`, `dtype`, `kind` ("dense": every output channel sees all
    input channels or several; "depthwise": one), `batch`, `least_flops`, `most_flops`, `least_channels` (of the
    input), `least_out_channels`, `least_map` (the shorter side of the input), `least_bytes` (of all arrays).

    Raises
    ------
    ValueError
        For another key.
    """
    problem = fastconv.parse_problem(row["problem"])
    kind = "depthwise" if _depthwise(row["problem"]) and getattr(problem, "groups", 1) > 1 else "dense"
    if isinstance(problem, fastconv.ConvProblem):
        channels, out_channels = problem.in_channels, problem.out_channels
    else:
        channels = out_channels = problem.channels
    answers = {
        "family": lambda wanted: row["family"] in ([wanted] if isinstance(wanted, str) else wanted),
        "directions": lambda wanted: row["direction"] in wanted,
        "threads": lambda wanted: row["threads"] in wanted,
        "dtype": lambda wanted: problem.dtype == wanted,
        "kind": lambda wanted: row["family"] == "conv" and kind == wanted,
        "least_flops": lambda wanted: 2 * problem.macs >= wanted,
        "most_flops": lambda wanted: 2 * problem.macs <= wanted,
        "batch": lambda wanted: problem.batch in wanted,
        "least_channels": lambda wanted: channels >= wanted,
        "least_out_channels": lambda wanted: out_channels >= wanted,
        "least_map": lambda wanted: min(problem.in_size) >= wanted,
        "least_bytes": lambda wanted: problem.bytes >= wanted,
    }
    if unknown := set(select) - set(answers):
        raise ValueError(f"a bar cannot select by {', '.join(sorted(unknown))}; it can by {', '.join(answers)}")
    return all(answers[key](wanted) for key, wanted in select.items())


def table(verdicts: Sequence[Verdict]) -> str:
    """The bars as text, one line each, and the rows apart below them."""
    lines = [("bar", "rows", "mean", "bar", "worst", "bar", "", "worst row")]
    for verdict in verdicts:
        row, least = verdict.worst
        state = "reached" if verdict.reached else "MISSED" if verdict.judged else "no rows"
        note = row + (f" (and {len(verdict.missing)} rows could not be judged)" if verdict.missing else "")
        lines.append((
            verdict.bar.name, str(len(verdict.figures)), f"{verdict.mean:.2f}", f"{verdict.bar.geometric_mean:g}",
            f"{least:.2f}", f"{verdict.bar.worst:g}", state, note,
        ))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    apart = {f"{v.bar.name}: {row}": value for v in verdicts for row, value in v.apart.items()}
    if apart:
        text += ["", f"Apart, for the peer takes under {APART_SECONDS * 1e6:g} us (each must reach {APART_BAR}):"]
        text += [f"  {value:5.2f}  {row}" for row, value in sorted(apart.items(), key=lambda item: item[1])]
    return "\n".join(text)
