"""The run in a few figures: what is fastest, how close to the machine's limits, and how noisy the clock was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bench.presets import DIRECTIONS
from bench.records import Run
from bench.report import frames
from bench.statistics import geometric_mean


@dataclass(frozen=True)
class Figure:
    """One tile of the first screen."""

    value: str
    unit: str
    title: str
    detail: str


@dataclass(frozen=True)
class Standing:
    """One family and direction: who wins, and how far the others are behind."""

    family: str
    direction: str
    problems: int
    winner: str
    cells: list[tuple[str, bool]]  # per candidate: its mean slow-down against the fastest, and whether it leads


FAMILIES = {"conv": "Convolution", "max": "Maximum pooling", "avg": "Average pooling"}


def figures(run: Run, table: pd.DataFrame) -> list[Figure]:
    """The tiles: fastest convolution, fastest pooling, what was verified."""
    timed = frames.timed(table)
    tiles = []
    for families, title, limit in (
        (["conv"], "Fastest convolution", "of the multiply-add peak measured in the same run"),
        (["max", "avg"], "Fastest pooling", "of the speed of a copy in memory"),
    ):
        rows = timed[timed["family"].isin(families) & ~timed["name"].isin(run.head["peers"])]
        if len(rows):
            best = rows.sort_values("rate").iloc[-1]
            share = f"{frames.percent(best['share'])} {limit}. " if best["share"] == best["share"] else ""
            way = frames.TITLES[best["direction"]].lower()
            detail = f"{share}{best['name']}, {way}, {best['problem']}"
            tiles.append(Figure(frames.number(best["rate"]), best["unit"], title, detail))
    wrong = table[table["status"].isin(["wrong", "failed"])]
    detail = "each equal to float64 within its promised error, before and after timing"
    if len(wrong):
        named = [
            f"{row['name']} on {row['problem']} {row['direction']} ({row['reason']})" for _, row in wrong.iterrows()
        ]
        detail = f"{len(wrong)} wrong or failed: " + "; ".join(named[:3]) + ("; ..." if len(named) > 3 else "")
    tiles.append(Figure(f"{len(timed):,}", "results", "Verified" if not len(wrong) else "Not all right", detail))
    return tiles


def standings(table: pd.DataFrame, names: Sequence[str]) -> list[Standing]:
    """Per family and direction, over the problems that every candidate shown was timed on.

    A candidate that was timed on less than half of them (plain Python, above its limit) has a dash.
    """
    found = []
    timed = frames.timed(table)
    for family in FAMILIES:
        for way in DIRECTIONS:
            rows = timed[(timed["family"] == family) & (timed["direction"] == way)]
            if not len(rows):
                continue
            medians = rows.pivot_table(index=["problem", "threads"], columns="name", values="median")
            shown = [name for name in map(str, medians) if medians[name].notna().sum() * 2 >= len(medians)]
            common = medians[shown].dropna()
            if not shown or not len(common):
                continue
            slower = {
                name: geometric_mean([float(value) for value in common[name] / common.min(axis=1)]) for name in shown
            }
            winner = min(slower, key=lambda name: slower[name])
            cells = [(f"{slower[n]:.2f}×" if n in slower else "–", n == winner) for n in names]
            found.append(Standing(FAMILIES[family], frames.TITLES[way], len(common), winner, cells))
    return found


@dataclass(frozen=True)
class Noise:
    """How far the figures can be trusted."""

    noisy: bool
    text: str


def noise(run: Run, table: pd.DataFrame) -> Noise:
    """From the load at the start, the typical spread of the samples, and the peak before and after."""
    spread = float(frames.timed(table)["spread"].median()) if len(frames.timed(table)) else 0.0
    load = run.head["environment"].get("load") or 0.0
    peaks: dict[int, list[float]] = {}
    for entry in run.limits:
        peaks.setdefault(entry["threads"], []).append(entry["threads_float32"])
    drift = max((max(found) / min(found) - 1 for found in peaks.values()), default=0.0)
    noisy = spread > 0.1 or drift > 0.1 or load > 1.0
    text = (
        f"The middle half of a row's samples typically spans {frames.percent(spread)} of their median; "
        f"the machine's peak differed by {frames.percent(drift)} between the measurements of this run; "
        f"the load before it was {load:.1f}."
    )
    if noisy:
        text += " Something else was running: take differences below a quarter for none."
    if run.end is None:
        text += " The run was cut short: what is missing was not measured."
    return Noise(noisy or run.end is None, text)
