"""Pictures as SVG inside the page: their colours are the page's variables, so that they follow its theme.

matplotlib draws with placeholder colours, which become CSS variables; text stays text, in the page's fonts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure

#: Okabe and Ito's colours, made darker or lighter until they stand out: (name prefix, light page, dark page, marker).
STYLES = (
    ("cython_tiled", "#0072b2", "#5ab4f0", "o"),
    ("numba_direct", "#008c66", "#2fc99c", "s"),
    ("im2col_gemm", "#b87000", "#eda91d", "^"),
    ("naive", "#69707d", "#a3abb8", "X"),
    ("cython_winograd", "#b3477f", "#e794c4", "D"),
    ("torch_channels_last", "#7a3db8", "#b794f6", "v"),
    ("torch", "#c44f00", "#ff8a4c", "P"),
    ("onnxruntime", "#00707f", "#4cc3d4", "p"),
    ("openvino", "#5d7300", "#b5cf45", "d"),
    ("ncnn", "#7d5a3c", "#cda482", "H"),
    ("auto", "#1f2937", "#e5e7eb", "*"),
)
_SPARE = (("#8a6d00", "#d8b93a", "h"), ("#a33b3b", "#f28b8b", "<"), ("#3f6f8f", "#93c2e0", ">"))
GLYPHS = {
    "o": "●", "s": "■", "^": "▲", "X": "✖", "D": "◆", "v": "▼", "P": "✚", "*": "★", "h": "⬢", "<": "◀", ">": "▶",
    "p": "⬟", "d": "⬧", "H": "⬣",
}  # fmt: skip

_TEXT, _AXIS, _GRID, _LIMIT = "#010203", "#010204", "#010205", "#010206"
_VARIABLES = {_TEXT: "--text", _AXIS: "--axis", _GRID: "--grid", _LIMIT: "--limit"}

_SETTINGS = {
    "svg.fonttype": "none",
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _AXIS,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 9,
}


@dataclass(frozen=True)
class Style:
    """How one candidate looks in every picture."""

    name: str
    variable: str  # of the page's style sheet
    light: str
    dark: str
    marker: str

    @property
    def glyph(self) -> str:
        """The marker as a character, for the legend."""
        return GLYPHS[self.marker]


def styles(names: Sequence[str]) -> dict[str, Style]:
    """One style for each name; a known candidate looks alike in every report."""
    found: dict[str, Style] = {}
    spare = 0
    for index, name in enumerate(names):
        match = next((entry[1:] for entry in STYLES if name.startswith(entry[0])), None)
        if match is None or any(match[0] == style.light for style in found.values()):
            match = _SPARE[spare % len(_SPARE)]
            spare += 1
        found[name] = Style(name, f"--series-{index}", *match)
    return found


@dataclass(frozen=True)
class Scale:
    """The vertical axis that the plots of a sweep share, so that they compare at a glance."""

    unit: str
    top: float
    bottom: float  # 0, or where a logarithmic axis begins
    limit: tuple[str, float] | None  # what the machine can do, if it is near enough to be shown

    @property
    def logarithmic(self) -> bool:
        """Whether figures differ too much for a linear axis."""
        return self.bottom > 0


def scale(unit: str, values: Sequence[float], limit: tuple[str, float] | None) -> Scale:
    """An axis for `values`; logarithmic where they span more than a factor of 50."""
    if not values:
        return Scale(unit, 1.0, 0.0, None)
    shown = limit if limit and limit[1] < 3 * max(values) else None
    top = max(*values, shown[1] if shown else 0.0)
    if max(values) > 50 * min(values):
        return Scale(unit, 1.6 * top, 0.6 * min(values), shown)
    return Scale(unit, 1.1 * top, 0.0, shown)


@dataclass(frozen=True)
class Series:
    """One line of a plot; None where there is nothing to show."""

    style: Style
    values: list[float | None]
    low: list[float | None]
    high: list[float | None]


def lines(
    title: str,
    label: str,
    ticks: Sequence[str],
    series: Sequence[Series],
    scale: Scale,
    alt: str,
) -> str:
    """A line for each candidate over the values of a parameter, with its quartiles."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.6, 3.1), layout="constrained")
        axes = figure.subplots()
        for entry in series:
            places = [place for place, value in enumerate(entry.values) if value is not None]
            values = [entry.values[place] or 0.0 for place in places]
            low = [(entry.values[p] or 0) - (entry.low[p] or 0) for p in places]
            high = [(entry.high[p] or 0) - (entry.values[p] or 0) for p in places]
            axes.errorbar(
                places, values, yerr=[low, high], color=entry.style.light, marker=entry.style.marker, markersize=5.5,
                linewidth=1.8, elinewidth=1, capsize=2.5, linestyle="--" if "torch" in entry.style.name else "-",
            )  # fmt: skip
        if scale.limit:
            name, height = scale.limit
            axes.axhline(height, color=_LIMIT, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.annotate(
                name, (1, height), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="right", va="bottom", fontsize=8, color=_LIMIT,
            )  # fmt: skip
        if scale.logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(lambda value, _: "")
        axes.set_ylim(scale.bottom, scale.top)
        axes.set_xticks(range(len(ticks)), ticks)
        axes.set_xlim(-0.3, len(ticks) - 0.7)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_ylabel(scale.unit + (" (log scale)" if scale.logarithmic else ""))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        return _svg(figure, alt, {entry.style.light: entry.style.variable for entry in series})


def columns(
    title: str, unit: str, names: Sequence[str], values: Sequence[float], marked: Sequence[bool], alt: str
) -> str:
    """Horizontal bars, one for each name from top to bottom; the marked ones in the accent colour."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(4.6, 4.7), layout="constrained")
        axes = figure.subplots()
        strong, weak = "#010207", "#010208"
        axes.barh(range(len(names)), values, 0.72, color=[strong if mark else weak for mark in marked])
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.invert_yaxis()
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_title(title)
        axes.set_xlabel(unit)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        return _svg(figure, alt, {strong: "--accent", weak: "--muted-bar"})


def _svg(figure: Figure, alt: str, colours: dict[str, str]) -> str:
    """The figure as an element of the page: no prolog, no addresses, no ids but those it refers to."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": alt}):  # same input, same page; another figure, other ids
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r'\sid="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)
    for colour, variable in {**_VARIABLES, **colours}.items():
        text = re.sub(rf"{colour}\b", f"var({variable})", text, flags=re.IGNORECASE)
    text = re.sub(r"font: ((?:\d+ |bold )?[\d.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    head = f'<svg role="img" aria-label="{escape(alt, quote=True)}"'
    text = re.sub(r'^<svg[^>]*?viewBox="([^"]*)"[^>]*>', lambda match: f'{head} viewBox="{match[1]}">', text, count=1)
    return re.sub(r"\n\s*", "\n", text)


def sheet(found: dict[str, Style]) -> tuple[str, str]:
    """The CSS variables of these styles, for the light and for the dark page."""
    light = " ".join(f"{style.variable}: {style.light};" for style in found.values())
    dark = " ".join(f"{style.variable}: {style.dark};" for style in found.values())
    return light, dark
