"""A run on disk: JSON lines, each flushed as it comes, so that a killed run keeps what it had.

The first line describes the run (kind "run"), then come "limits" and "row" lines, and "end" when it came to its end.
Numbers are finite: what is not is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

#: Changes when a reader of the old form would misunderstand the new one.
SCHEMA = 1


def strict(value: Any) -> Any:
    """`value` as strict JSON can hold it: plain numbers, null for what is not finite."""
    if isinstance(value, dict):
        return {str(key): strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(entry) for entry in value]
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None


class Writer:
    """Appends records to an open file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, kind: str, **fields: Any) -> None:
        """One line, on its way to the disk when this returns."""
        line = json.dumps(strict({"kind": kind, **fields}), allow_nan=False, separators=(",", ":"))
        self._stream.write(line + "\n")
        self._stream.flush()


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """A writer to a new file at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        yield Writer(stream)


@dataclass
class Run:
    """What a file holds."""

    head: dict[str, Any]
    limits: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None  # None: the run was cut short

    def limits_at(self, threads: int) -> dict[str, Any]:
        """The machine's limits as they were measured for so many threads; empty if they were not."""
        return next((entry for entry in self.limits if entry["threads"] == threads), {})


def _lines(text: str, path: Path) -> Iterator[dict[str, Any]]:
    lines = text.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line, parse_constant=_refuse_constant)
        except ValueError as error:
            if number == len(lines) and not line.endswith("\n"):
                return  # the run was killed while it wrote this
            raise ValueError(f"{path.name}, line {number}: not a record: {error}") from None
        yield record


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not strict JSON")


def read(path: Path) -> Run:
    """Read a run back; a last line that was cut off is ignored.

    Raises
    ------
    ValueError
        For a file that is not a run, is damaged before its last line, or has another schema.
    """
    records = list(_lines(path.read_text(encoding="utf-8"), path))
    if not records or records[0].get("kind") != "run":
        raise ValueError(f"{path.name} does not begin with a run's description")
    head = records[0]
    if head.get("schema") != SCHEMA:
        raise ValueError(f"{path.name} has schema {head.get('schema')}, this reads {SCHEMA}")
    run = Run(head)
    for record in records[1:]:
        if record["kind"] == "limits":
            run.limits.append(record)
        elif record["kind"] == "row":
            run.rows.append(record)
        elif record["kind"] == "end":
            run.end = record
    return run
