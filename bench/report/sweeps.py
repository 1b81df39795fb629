"""A sweep on the page: a plot for each direction, and one table of all its figures. Other problems: a table alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from bench.presets import DIRECTIONS
from bench.records import Run
from bench.report import frames, plots


@dataclass(frozen=True)
class Cell:
    """One candidate's figure in a table."""

    main: str
    detail: str = ""
    best: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Line:
    """One problem and direction."""

    direction: str
    value: str
    problem: str
    cells: list[Cell]
    first: bool  # of its direction


@dataclass(frozen=True)
class Section:
    """Everything the page shows of one sweep."""

    name: str
    title: str
    parameter: str
    family: str
    unit: str
    ends: tuple[str, str] | None  # the first problem of a sweep and the last
    caption: str
    plots: list[str]
    candidates: list[str]
    shown: list[str]  # the candidates that the plots show
    lines: list[Line]
    reasons: list[str]
    command: str


#: (problem, direction, name) -> its row
_Index: TypeAlias = Mapping[tuple[str, str, str], Mapping[Any, Any]]


def sections(run: Run, table: pd.DataFrame, styles: Mapping[str, plots.Style]) -> list[Section]:
    """One section per sweep and thread count, and one per family for what belongs to no sweep."""
    threads = sorted(set(table["threads"]))
    found = []
    for sweep in [*run.head["sweeps"], *_others(run, table)]:
        for count in threads:
            rows = table[table["problem"].isin([text for _, text in sweep["points"]]) & (table["threads"] == count)]
            if len(rows):
                found.append(_section(run, sweep, rows, styles, int(count), several=len(threads) > 1))
    return found


def _others(run: Run, table: pd.DataFrame) -> list[dict[str, Any]]:
    """The layers of networks, and single problems, in the form of sweeps without a parameter."""
    swept = {text for sweep in run.head["sweeps"] for _, text in sweep["points"]}
    labels: dict[str, list[str]] = {}
    for layer in run.head["layers"]:
        labels.setdefault(layer["problem"], []).append(f"{layer['network']} {layer['name']}")
    found = []
    for family in dict.fromkeys(table["family"]):
        texts = dict.fromkeys(table["problem"][table["family"] == family])
        points = [(", ".join(dict.fromkeys(labels.get(text, [])[:2])), text) for text in texts if text not in swept]
        title, label = ("Layers", "layer") if labels else ("Problems", "problem")
        if points:
            found.append({"name": f"problems-{family}", "title": title, "parameter": label, "points": points})
    return found


def _section(
    run: Run,
    sweep: Mapping[str, Any],
    rows: pd.DataFrame,
    styles: Mapping[str, plots.Style],
    threads: int,
    several: bool,
) -> Section:
    order = list(run.head["candidates"])
    names = frames.candidates(rows, order)
    index: _Index = {(row["problem"], row["direction"], row["name"]): row for row in rows.to_dict("records")}
    is_sweep = sweep in run.head["sweeps"]
    directions = [way for way in DIRECTIONS if way in set(rows["direction"])]
    unit, family = str(rows["unit"].iloc[0]), str(rows["family"].iloc[0])
    limits = run.limits_at(threads)
    limit = None
    if limits:
        limit = ("peak", limits["threads_float32"]) if family == "conv" else ("memory copy", limits["copy_memory"])
    title = sweep["title"] + (f", {threads} thread{'s' * (threads > 1)}" if several else "")
    heights = [float(value) for key in ("rate", "rate_high") for value in frames.timed(rows)[key]]
    scale = plots.scale(unit, heights, limit)
    pictures, lines = [], []
    reasons: dict[str, None] = {}
    for way in directions:
        if heights and is_sweep:
            pictures.append(_plot(sweep, way, index, names, styles, scale))
        for place, (value, problem) in enumerate(sweep["points"]):
            cells = _cells(index, problem, way, names)
            lines.append(Line(frames.TITLES[way], value, problem, cells, place == 0))
            reasons |= {f"{name}: {cell.reason}": None for name, cell in zip(names, cells, strict=True) if cell.reason}
    ends = (sweep["points"][0][1], sweep["points"][-1][1]) if is_sweep else None
    shown = frames.candidates(frames.timed(rows), order)
    caption = f"{threads} thread{'s' * (threads > 1)}."
    if not shown:
        caption += " Nothing was timed: the table says why."
    elif limit and is_sweep and not scale.limit:
        what = "multiply-add peak" if family == "conv" else "copy speed of memory"
        caption += f" The {what}, {frames.number(limit[1])} {unit}, is above the plot."
    command = f"python -m bench run --preset {run.head['preset']} --sweeps {sweep['name']} --threads {threads}"
    if not is_sweep:
        command = run.head["command"]
    return Section(
        f"{sweep['name']}-{threads}", title, sweep["parameter"], family, unit, ends, caption, pictures, names, shown,
        lines, list(reasons), command,
    )  # fmt: skip


def _plot(
    sweep: Mapping[str, Any],
    way: str,
    index: _Index,
    names: Sequence[str],
    styles: Mapping[str, plots.Style],
    scale: plots.Scale,
) -> str:
    series, spoken = [], []
    for name in names:
        found = [index.get((problem, way, name)) for _, problem in sweep["points"]]
        timed = [row if row is not None and row["status"] == "timed" else None for row in found]
        if not any(row is not None for row in timed):
            continue
        columns = [
            [None if row is None else float(row[key]) for row in timed] for key in ("rate", "rate_low", "rate_high")
        ]
        series.append(plots.Series(styles[name], *columns))
        rates = [rate for rate in columns[0] if rate is not None]
        spoken.append(f"{name} {frames.number(min(rates))} to {frames.number(max(rates))}")
    alt = f"{sweep['title']}, {frames.TITLES[way]}, in {scale.unit}: {'; '.join(spoken) or 'nothing was timed'}."
    ticks = [value for value, _ in sweep["points"]]
    return plots.lines(frames.TITLES[way], sweep["parameter"], ticks, series, scale, alt)


def _cells(index: _Index, problem: str, way: str, names: Sequence[str]) -> list[Cell]:
    rows = [index.get((problem, way, name)) for name in names]
    rates = [float(row["rate"]) for row in rows if row is not None and row["status"] == "timed"]
    best = max(rates, default=None)
    cells = []
    for row in rows:
        if row is None:
            cells.append(Cell("–"))
        elif row["status"] == "timed":
            share = f"{frames.percent(row['share'])} · " if row["share"] == row["share"] else ""
            detail = f"{share}{frames.duration(row['median'])} ± {frames.percent(row['spread'] / 2)}"
            cells.append(Cell(frames.number(row["rate"]), detail, float(row["rate"]) == best))
        else:
            skipped = str(row["reason"]).startswith("not timed")
            cells.append(Cell("not timed" if skipped else str(row["status"]), reason=str(row["reason"])))
    return cells
