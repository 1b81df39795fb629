"""A run's rows as a pandas table, with rates and shares beside the times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from bench import bars
from bench.records import Run

#: How directions are called on the page.
TITLES = {
    "forward": "Forward",
    "forward_indices": "Forward with indices",
    "backward_input": "Backward, input",
    "backward_weight": "Backward, weight",
}

_COLUMNS = ("family", "problem", "direction", "threads", "name", "status", "reason", "macs", "bytes")
_NUMBERS = ("minimum", "median", "low", "high", "first_call", "error", "workspace_bytes")


def frame(run: Run) -> pd.DataFrame:
    """One line per row of the run.

    Beside the recorded columns: `work` (GFLOP of a convolution, GB of a pool), `rate` (work per second at the
    median), `rate_low` and `rate_high` (at the quartiles), `spread` (inter-quartile range / median), `share`
    (of the multiply-add peak, or of the copy speed), `unit`.
    """
    table = pd.DataFrame(run.rows, columns=[*_COLUMNS, *_NUMBERS])
    for column in _NUMBERS:
        table[column] = pd.to_numeric(table[column])
    convolves = table["family"] == "conv"
    table["work"] = (2 * table["macs"]).where(convolves, table["bytes"]) / 1e9
    table["rate"] = table["work"] / table["median"]
    table["rate_low"], table["rate_high"] = table["work"] / table["high"], table["work"] / table["low"]
    table["spread"] = (table["high"] - table["low"]) / table["median"]
    table["unit"] = convolves.map({True: "GFLOP/s", False: "GB/s"})
    measures = convolves.map({True: "peak", False: "copy"})
    table["share"] = [
        bars.share_of(measure, row, run) if row["status"] == "timed" else None
        for measure, row in zip(measures, run.rows, strict=True)
    ]
    table["share"] = pd.to_numeric(table["share"])
    return table


def timed(table: pd.DataFrame) -> pd.DataFrame:
    """Only what has a time."""
    return table[table["status"] == "timed"]


def candidates(table: pd.DataFrame, order: Sequence[str]) -> list[str]:
    """Who takes part in these rows, in the run's order."""
    present = set(table["name"])
    return [name for name in order if name in present]


# -- Figures as people read them --------------------------------------------------------------------


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value != value:
        return "–"
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{number(seconds / scale)} {unit}"
    return f"{number(seconds * 1e9)} ns"


def percent(share: Any) -> str:
    """A share in percent; a dash for none."""
    return "–" if share is None or share != share else f"{100 * share:.0f} %"


def size(nbytes: float) -> str:
    """Bytes in the unit that suits them."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= scale:
            return f"{number(nbytes / scale)} {unit}"
    return f"{nbytes:.0f} B"
