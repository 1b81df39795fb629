"""What is measured, as data: a preset is a TOML file of problems, candidates, directions, threads, time and bars.

Problems come from three places: sweeps over one parameter, the layers of real networks (shapes/*.csv), and
texts that `fastconv.parse_problem` reads. The same problem is measured once, whoever asks for it.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import fastconv

Problem: TypeAlias = fastconv.ConvProblem | fastconv.PoolProblem

PRESETS = Path(__file__).parent / "presets"
SHAPES = Path(__file__).parent / "shapes"

#: What can be timed. `forward_indices` is a maximum that also says where it was.
DIRECTIONS = ("forward", "forward_indices", "backward_input", "backward_weight")


def directions_of(problem: Problem) -> tuple[str, ...]:
    """The directions that `problem` has."""
    if isinstance(problem, fastconv.ConvProblem):
        return ("forward", "backward_input", "backward_weight")
    return ("forward", "forward_indices", "backward_input") if problem.kind == "max" else ("forward", "backward_input")


def moved_bytes(problem: Problem, direction: str) -> int:
    """Bytes that a call must move at least: what it reads and writes once, the indices of a maximum among it."""
    if isinstance(problem, fastconv.ConvProblem) or problem.kind == "avg" or direction == "forward":
        return problem.bytes
    return problem.bytes + 8 * math.prod(problem.output_shape)


@dataclass(frozen=True)
class Sweep:
    """One parameter varied, everything else fixed: a plot and a table of the report."""

    name: str
    title: str
    parameter: str  # the label of the axis
    points: tuple[tuple[str, str], ...]  # (value, canonical text of the problem)

    def as_dict(self) -> dict[str, Any]:
        """What a run's records keep of it."""
        return {"name": self.name, "title": self.title, "parameter": self.parameter, "points": self.points}


@dataclass(frozen=True)
class Layer:
    """One line of a network's CSV file: a problem and how often the network has it."""

    network: str
    name: str
    problem: str  # canonical text
    count: int


@dataclass(frozen=True)
class Bar:
    """One demand on a run: a geometric mean and a worst row, over the rows that it selects (see bars.py)."""

    name: str
    candidate: str
    measure: str  # "ratio" to the fastest of `against`; "peak" or "copy": a share of it; "scaling"; "time"; "regret"
    geometric_mean: float
    worst: float
    against: tuple[str, ...] = ()
    select: Mapping[str, Any] | None = None
    microseconds: float = 0.0  # what a "time" is allowed
    share: float = 1.0  # of the rows, the best ones: the worst of these is judged


@dataclass(frozen=True)
class Preset:
    """Everything that `python -m bench run --preset NAME` needs to know."""

    name: str
    title: str
    sweeps: tuple[Sweep, ...] = ()
    layers: tuple[Layer, ...] = ()
    texts: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()  # empty: all that are registered
    peers: tuple[str, ...] = ()
    directions: tuple[str, ...] = DIRECTIONS
    threads: tuple[int, ...] = ()  # empty: as many as the machine grants
    seconds: float = 120.0
    bars: tuple[Bar, ...] = ()

    def problems(self) -> list[Problem]:
        """Every problem once, in order of first mention."""
        texts = [text for sweep in self.sweeps for _, text in sweep.points]
        texts += [layer.problem for layer in self.layers] + list(self.texts)
        return [fastconv.parse_problem(text) for text in dict.fromkeys(texts)]

    def of_problems(self, texts: Sequence[str]) -> Preset:
        """The same preset with only these problems, and no bars."""
        return replace(self, sweeps=(), layers=(), bars=(), texts=tuple(canonical(text) for text in texts))

    def of_sweeps(self, names: Sequence[str]) -> Preset:
        """The same preset with only these sweeps, and its time in proportion.

        Raises
        ------
        ValueError
            For a sweep that it does not have.
        """
        chosen = tuple(sweep for sweep in self.sweeps if sweep.name in names)
        if unknown := set(names) - {sweep.name for sweep in chosen}:
            known = ", ".join(sweep.name for sweep in self.sweeps)
            raise ValueError(f"preset {self.name} has no sweep {sorted(unknown)[0]!r}; it has {known}")
        only = replace(self, sweeps=chosen, layers=(), texts=(), bars=())
        return replace(only, seconds=self.seconds * len(only.problems()) / len(self.problems()))


def canonical(text: str) -> str:
    """The one text of the problem that `text` describes."""
    return str(fastconv.parse_problem(text))


def names() -> list[str]:
    """The presets there are."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load(name: str) -> Preset:
    """Read presets/NAME.toml, or the file at that path.

    Raises
    ------
    ValueError
        For an unknown name, key, direction or measure; the message says which are known.
    """
    path = Path(name) if name.endswith(".toml") else PRESETS / f"{name}.toml"
    if not path.is_file():
        raise ValueError(f"no preset {name!r}; there are {', '.join(names())}, and paths that end in .toml")
    with path.open("rb") as stream:
        table = tomllib.load(stream)
    return read(path.stem, table)


def read(name: str, table: Mapping[str, Any]) -> Preset:
    """The preset that a TOML table describes."""
    given = dict(table)
    sweeps = tuple(read_sweep(**entry) for entry in given.pop("sweeps", []))
    chosen = tuple(layer for entry in given.pop("layers", []) for layer in select_layers(**entry))
    bars = tuple(_read_bar(entry) for entry in given.pop("bars", []))
    texts = tuple(canonical(text) for text in given.pop("problems", []))
    lists: dict[str, Any] = {
        key: tuple(given.pop(key)) for key in ("algorithms", "peers", "directions", "threads") if key in given
    }
    unknown = set(given) - {"title", "seconds"}
    if unknown:
        raise ValueError(f"preset {name}: unknown keys {', '.join(sorted(unknown))}")
    if strange := set(lists.get("directions", ())) - set(DIRECTIONS):
        raise ValueError(f"preset {name}: unknown directions {', '.join(sorted(strange))}")
    title = given.get("title", name)
    preset = Preset(name, title, sweeps, chosen, texts, bars=bars, **lists)
    return replace(preset, seconds=float(given.get("seconds", preset.seconds)))


def read_sweep(name: str, title: str, parameter: str, problem: str, values: Iterable[int]) -> Sweep:
    """A sweep from a text with ``{v}`` for the value and ``{h}`` for half of it, rounded down."""
    points = tuple((str(value), canonical(problem.format(v=value, h=value // 2))) for value in values)
    return Sweep(name, title, parameter, points)


def _read_bar(entry: Mapping[str, Any]) -> Bar:
    bar = Bar(**{**entry, "against": tuple(entry.get("against", ()))})
    measures = ("ratio", "peak", "copy", "scaling", "time", "regret")
    if bar.measure not in measures:
        raise ValueError(f"bar {bar.name!r}: measure must be one of {', '.join(measures)}, got {bar.measure!r}")
    if not 0 < bar.share <= 1:
        raise ValueError(f"bar {bar.name!r}: share must be above 0 and at most 1, got {bar.share}")
    if (bar.measure == "time") != (bar.microseconds > 0):
        raise ValueError(f"bar {bar.name!r}: a time, and only a time, is allowed some microseconds")
    if (bar.measure == "ratio") != bool(bar.against):
        raise ValueError(f"bar {bar.name!r}: a ratio, and only a ratio, is against somebody")
    return bar


# -- The layers of real networks --------------------------------------------------------------------


def networks() -> list[str]:
    """The lists of layers there are."""
    return sorted(path.stem for path in SHAPES.glob("*.csv"))


def select_layers(
    networks: Sequence[str],
    batch: Sequence[int] = (1,),
    dtype: str = "f32",
    family: str | None = None,
    kernel: int | None = None,
    stride: int | None = None,
) -> list[Layer]:
    """The layers of these networks, at these batch sizes; of one family (conv, max, avg), kernel and stride."""

    def wanted(layer: Layer) -> bool:
        problem = fastconv.parse_problem(layer.problem)
        own = getattr(problem, "kind", "conv"), problem.kernel, problem.stride
        asked = family, kernel and (kernel, kernel), stride and (stride, stride)
        return all(value is None or value == has for has, value in zip(own, asked, strict=True))

    found = [layer for size in batch for network in networks for layer in layers(network, size, dtype)]
    return [layer for layer in found if wanted(layer)]


def layers(network: str, batch: int = 1, dtype: str = "f32") -> list[Layer]:
    """All layers of shapes/NETWORK.csv that convolve or pool."""
    with (SHAPES / f"{network}.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [Layer(network, row["name"], _layer_text(row, batch, dtype), int(row["count"])) for row in rows]


def _layer_text(row: Mapping[str, str], batch: int, dtype: str) -> str:
    kind, _, family = row["op"].rpartition("_")
    head = f"{dtype}_n{batch}c{row['c']}h{row['h']}w{row['w']}"
    tail = "_stride{stride}x{stride}_pad{pad}:{pad},{pad}:{pad}_dil{dilation}x{dilation}".format_map(row)
    if family == "pool":
        return canonical(f"{kind}_{head}_r{row['r']}s{row['s']}{tail}")
    return canonical(f"{head}_k{row['k']}r{row['r']}s{row['s']}{tail}_g{row['groups']}")
