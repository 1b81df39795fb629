"""README's measured table and picture, made from a run: figures in a document are generated, never typed.

`make readme` measures the preset "readme", replaces what stands between the markers in README.md, and draws
docs/measured.svg.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from bench.records import Run
from bench.report import frames, plots

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"

#: Directions in the order of the table, with what the columns call them.
_WAYS = ("forward", "forward_indices", "backward_input", "backward_weight")


def insert(readme: str, table: str) -> str:
    """`readme` with what stands between its markers replaced.

    Raises
    ------
    ValueError
        When the markers are not there, once each and in order.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"the document needs {BEGIN} and {END}, once each")
    return readme[: readme.index(BEGIN) + len(BEGIN)] + "\n" + table + "\n" + readme[readme.index(END) :]


def markdown(run: Run) -> str:
    """Rates by problem, direction and candidate; the fastest in bold, and its share of what the machine can do."""
    rows = frames.frame(run)
    names = frames.candidates(frames.timed(rows), run.head["candidates"])
    lines = [
        "| problem | direction | " + " | ".join(f"`{name}`" for name in names) + " | share |",
        "|---|---|" + "---:|" * (len(names) + 1),
    ]
    for problem, way in _cases(rows):
        rates, shares = _by_name(rows, problem, way, "rate"), _by_name(rows, problem, way, "share")
        if not rates:
            continue
        best = max(rates, key=lambda name: rates[name])
        shown = (frames.number(rates[name]) if name in rates else "–" for name in names)
        cells = [f"**{cell}**" if name == best else cell for name, cell in zip(names, shown, strict=True)]
        share = frames.percent(shares[best])
        lines.append(f"| `{problem}` | {frames.TITLES[way].lower()} | " + " | ".join(cells) + f" | {share} |")
    return "\n".join([_caption(run), "", *lines])


def _caption(run: Run) -> str:
    environment, limits = run.head["environment"], run.limits[0]
    threads = ", ".join(str(count) for count in sorted({row["threads"] for row in run.rows}))
    peak, copy = frames.number(limits["float32"][limits["level"]]), frames.number(limits["copy_memory"])
    return (
        f"Medians on {environment['cpu']}, {threads} thread{'s' * (threads != '1')}, stateless calls, float32: "
        f"GFLOP/s of the direct method (peak {peak}) for convolution, GB/s of input, output and indices (copy {copy}) "
        f"for pooling; the last column is the fastest's share of that. Made by `{run.head['command']}` at commit "
        f"{environment['commit']['id'][:12]}, {environment['time'][:10]}; `make readme` makes it again."
    )


def _cases(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(problem, direction) in the order of the run, directions in theirs."""
    problems = list(dict.fromkeys(rows["problem"]))
    present = set(zip(rows["problem"], rows["direction"], strict=True))
    return [(problem, way) for problem in problems for way in _WAYS if (problem, way) in present]


def _by_name(rows: pd.DataFrame, problem: str, way: str, column: str) -> dict[str, float]:
    """A column of the timed rows of a case, by candidate."""
    timed = frames.timed(rows)
    case = timed[(timed["problem"] == problem) & (timed["direction"] == way)]
    return {str(name): float(value) for name, value in zip(case["name"], case[column], strict=True)}


def picture(run: Run) -> str:
    """An SVG: for each direction of convolution, the candidates' rates by problem, beside the machine's peak."""
    rows = frames.frame(run)
    rows = rows[rows["family"] == "conv"]
    names = frames.candidates(frames.timed(rows), run.head["candidates"])
    looks = plots.styles(names)
    problems = list(dict.fromkeys(rows["problem"]))
    peak = float(run.limits[0]["float32"][run.limits[0]["level"]])
    ways = [way for way in _WAYS if way in set(rows["direction"])]
    with mpl.rc_context({"svg.hashsalt": "measured", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(11, 2.6 * len(ways)), layout="constrained", facecolor="white")
        panels = figure.subplots(len(ways), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        width = 0.8 / max(len(names), 1)
        for panel, way in zip(panels, ways, strict=True):
            for place, name in enumerate(names):
                heights = [_by_name(rows, problem, way, "rate").get(name, 0.0) for problem in problems]
                centres = [x + (place - (len(names) - 1) / 2) * width for x in range(len(problems))]
                panel.bar(centres, heights, width * 0.92, color=looks[name].light, label=name)
            panel.axhline(peak, color="#a33", linewidth=1, linestyle=(0, (4, 3)))
            panel.set_title(frames.TITLES[way], loc="left", fontsize=10, fontweight="bold")
            panel.set_ylabel("GFLOP/s")
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis="y", color="#ddd", linewidth=0.6)
            panel.set_axisbelow(True)
        panels[0].legend(ncols=len(names), frameon=False, loc="lower right", bbox_to_anchor=(1, 1.02))
        panels[0].annotate("peak", (0, peak), (2, 2), textcoords="offset points", color="#a33", fontsize=8, ha="right")
        panels[-1].set_xticks(range(len(problems)), [_short(problem) for problem in problems])
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _short(problem: str) -> str:
    """The text of a problem on two or three lines, without the element type."""
    _, image, window, *rest = problem.split("_")
    return "\n".join([image.removeprefix("n1"), window, " ".join(rest)]).strip()


def write(run: Run, readme: Path, drawing: Path) -> None:
    """Put the table into `readme`, and the picture into `drawing`."""
    readme.write_text(insert(readme.read_text(encoding="utf-8"), markdown(run)), encoding="utf-8")
    drawing.write_text(picture(run), encoding="utf-8")
