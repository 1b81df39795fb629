"""docs/kernels.md, made from a run: every compiled kernel, what it is for, and how near it comes to the limits.

`make kernels` measures the preset "kernels" and writes the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import fastconv
from bench import bars
from bench.presets import Problem
from bench.records import Run
from bench.report import frames


class Kernel(NamedTuple):
    """One line of the table."""

    module: str  # fastconv/kernels/cython/MODULE.pyx
    name: str
    purpose: str
    measure: str = ""  # share of what: "peak" or "copy"; empty: it has no time of its own


TILES = Kernel("direct", "register tiles", "forward and input gradient, vectors along channels", "peak")
LINES = Kernel("direct", "line tiles", "the same for groups of few channels, vectors along pixels", "peak")
GRADIENT = Kernel("gradient", "register tiles", "weight gradient, sums over pixels", "peak")
DOTS = Kernel("dots", "dots tiles", "weight gradient of few channels or one tap, products of rows of pixels", "peak")
GATHER = Kernel("depthwise", "gather and scatter", "depthwise forward and input gradient, plane by plane", "copy")
DEPTHWISE_DOTS = Kernel("depthwise", "products", "depthwise weight gradient", "copy")
CHANNELS = Kernel("depthwise_channels", "gather and products", "depthwise, channels last, all directions", "copy")
MAXIMA = Kernel("pool", "maxima", "largest of each window, with and without its index", "copy")
MEANS = Kernel("pool", "averages", "mean of each window", "copy")
MAXIMA_BACK = Kernel("pool_backward", "maxima", "gradients go to where the maximum was", "copy")
MEANS_BACK = Kernel("pool_backward", "averages", "gradients are spread over their windows", "copy")
KERNELS = (
    TILES,
    LINES,
    Kernel("pack", "weights", "puts weights in the order of direct's tiles; part of their time"),
    GRADIENT,
    DOTS,
    GATHER,
    DEPTHWISE_DOTS,
    CHANNELS,
    MAXIMA,
    MEANS,
    MAXIMA_BACK,
    MEANS_BACK,
    Kernel("winograd", "transforms and products", "3x3 of stride 1 by cython_winograd, forward and input gradient"),
    Kernel("winograd_gradient", "transforms and products", "weight gradient of the same"),
    Kernel("limits", "multiply-adds and copies", "measures what the others are compared with"),
)


#: Channels of a group below which there are few, and up to which vectors run along pixels.
FEW, NARROW = 8, 4


def kernel_of(problem: Problem, direction: str) -> Kernel:
    """The kernel by which cython_tiled computes a direction of a problem.

    The engine knows finer borders; for the preset's problems, which keep away from these, a test holds that both agree.
    """
    if not isinstance(problem, fastconv.ConvProblem):
        if direction == "backward_input":
            return MAXIMA_BACK if problem.kind == "max" else MEANS_BACK
        return MAXIMA if problem.kind == "max" else MEANS
    sources, results = problem.group_in_channels, problem.group_out_channels
    if problem.channels_last and problem.groups > 1 and sources == results == 1:
        return CHANNELS
    planes = sources == 1 and not problem.channels_last
    if direction == "backward_weight":
        if planes:
            return DEPTHWISE_DOTS
        one_tap = problem.kernel == (1, 1) and not problem.channels_last
        return DOTS if one_tap or sources < FEW or results <= NARROW else GRADIENT
    if planes:
        return GATHER
    return LINES if (results if direction == "forward" else sources) <= NARROW else TILES


def _timed(run: Run) -> dict[Kernel, list[tuple[float, dict[str, Any]]]]:
    """The shares of each kernel, with their rows, best first."""
    found: dict[Kernel, list[tuple[float, dict[str, Any]]]] = {kernel: [] for kernel in KERNELS}
    for row in run.rows:
        if row["name"] != "cython_tiled" or row["status"] != "timed":
            continue
        kernel = kernel_of(fastconv.parse_problem(row["problem"]), row["direction"])
        share = bars.share_of(kernel.measure, row, run)
        if share is not None:
            found[kernel].append((share, row))
    for entries in found.values():
        entries.sort(key=lambda entry: -entry[0])
    return found


def _cells(entry: tuple[float, dict[str, Any]]) -> tuple[str, str]:
    share, row = entry
    return frames.percent(share), f"`{row['problem']}` {frames.TITLES[row['direction']].lower()}"


def _lines(run: Run) -> Iterable[str]:
    yield "| kernel | what it is for | share of | rows | best | on | worst | on |"
    yield "|---|---|---|---:|---:|---|---:|---|"
    for kernel, entries in _timed(run).items():
        best, worst = (_cells(entries[0]), _cells(entries[-1])) if entries else (("–", "–"), ("–", "–"))
        cells = (f"`{kernel.module}`: {kernel.name}", kernel.purpose, kernel.measure or "–", str(len(entries)))
        yield "| " + " | ".join([*cells, *best, *worst]) + " |"


def page(run: Run) -> str:
    """The whole of docs/kernels.md."""
    environment, limits = run.head["environment"], run.limits_at(1)
    peaks = " and ".join(f"{frames.number(limits[kind][limits['level']])} in {kind}" for kind in ("float32", "float64"))
    commit = environment["commit"]["id"][:12] if environment["commit"] else "unknown"
    return "\n".join([
        "# Compiled kernels",
        "",
        f"Medians on {environment['cpu']} at level {limits['level']}, one thread, {environment['time'][:10]}, commit "
        f"{commit}, load {frames.number(environment['load'] or 0.0)} when it began: each kernel's share of what the "
        "machine can do, on its best and on its worst row. `peak` is the rate of multiply-adds from registers alone "
        f"({peaks} GFLOP/s), `copy` the speed at which large arrays are copied "
        f"({frames.number(limits['copy_memory'])} GB/s, read and written), of which arrays that fit the caches may "
        "have more than all. A whole call is timed, its Python and its packing included.",
        "",
        *_lines(run),
        "",
        f"Made by `{run.head['command']}`; `make kernels` makes it again.",
        "",
    ])  # fmt: skip
