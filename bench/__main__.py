"""`python -m bench run | report | readme | kernels`: see the subcommands' --help."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

REPORTS = Path("reports")
RUNS = REPORTS / "runs"

#: Runs of so few rows are printed whole.
FEW_ROWS = 40


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in _listed(text))
    if not counts or min(counts) < 1:
        raise argparse.ArgumentTypeError(f"thread counts must be at least 1, got {text!r}")
    return counts


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from bench import peers, presets

    top = argparse.ArgumentParser(prog="python -m bench", description="Measure fastconv, and show what was measured.")
    commands = top.add_subparsers(required=True, metavar="run | report | readme | kernels")

    run = commands.add_parser("run", help="measure, and write one line of JSON per row")
    run.set_defaults(act=_run)
    run.add_argument("--preset", default="quick", help=f"{', '.join(presets.names())}, or the path of a TOML file")
    run.add_argument("--problems", nargs="+", metavar="TEXT", help="these problems instead of the preset's")
    run.add_argument("--sweeps", type=_listed, metavar="S,T", help="only these sweeps of the preset")
    run.add_argument("--algorithms", type=_listed, metavar="A,B", help="only these (auto counts as one)")
    run.add_argument("--directions", type=_listed, metavar="D,E", help=", ".join(presets.DIRECTIONS))
    run.add_argument("--threads", type=_counts, metavar="N,M", help="thread counts; the machine's cores by default")
    run.add_argument("--peers", type=_listed, metavar="P,Q", help=", ".join(peers.NAMES))
    run.add_argument("--seconds", type=float, help="about how long to measure")
    run.add_argument("--seed", type=int, default=0, help="of the data and of the order of the rounds")
    run.add_argument("--out", type=Path, metavar="FILE", help="where the records go; reports/runs/ by default")

    report = commands.add_parser("report", help="make one HTML page of a run's records")
    report.set_defaults(act=_report)
    report.add_argument("records", nargs="?", type=Path, metavar="FILE", help="the newest of reports/runs/ by default")
    report.add_argument("--out", type=Path, default=REPORTS / "index.html", metavar="FILE")

    readme = commands.add_parser("readme", help="put a run's table and picture into README.md")
    readme.set_defaults(act=_readme)
    readme.add_argument("records", nargs="?", type=Path, metavar="FILE", help="the newest of reports/runs/ by default")

    kernels = commands.add_parser("kernels", help="write docs/kernels.md from a run of the preset of that name")
    kernels.set_defaults(act=_kernels)
    kernels.add_argument("records", nargs="?", type=Path, metavar="FILE", help="the newest of reports/runs/ by default")
    kernels.add_argument("--out", type=Path, default=Path("docs/kernels.md"), metavar="FILE")
    return top


def _run(arguments: argparse.Namespace, command: str) -> int:
    from bench.environment import wait_passively

    wait_passively()
    from bench import bars, presets, records, run

    preset = presets.load(arguments.preset)
    if arguments.problems:
        preset = preset.of_problems(arguments.problems)
    if arguments.sweeps:
        preset = preset.of_sweeps(arguments.sweeps)
    chosen = {key: getattr(arguments, key) for key in ("algorithms", "directions", "threads", "peers", "seconds")}
    preset = replace(preset, **{key: value for key, value in chosen.items() if value is not None})
    if strange := set(preset.directions) - set(presets.DIRECTIONS):
        raise ValueError(f"unknown directions {', '.join(sorted(strange))}; there are {', '.join(presets.DIRECTIONS)}")
    out = arguments.out or RUNS / f"{preset.name}-{datetime.now():%Y%m%d-%H%M%S}.jsonl"
    run.execute(preset, out, command, seed=arguments.seed)
    measured = records.read(out)
    if arguments.problems or len(measured.rows) <= FEW_ROWS:
        print(run.table(measured))
    if preset.bars:
        print(bars.table(bars.judge(preset.bars, measured)))
    faults = [row for row in measured.rows if row["status"] in ("wrong", "failed")]
    for row in faults:
        print(f"{row['status']}: {row['name']}, {row['problem']} {row['direction']}: {row['reason']}", file=sys.stderr)
    print(f"{len(measured.rows)} rows in {out}", file=sys.stderr)
    return 1 if faults else 0


def _report(arguments: argparse.Namespace, command: str) -> int:
    from bench import records
    from bench.report import build

    source = arguments.records or _newest()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(build.page(records.read(source)), encoding="utf-8")
    print(f"{arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _newest() -> Path:
    found = sorted(RUNS.glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ValueError("nothing measured yet: python -m bench run")
    return found[-1]


def _readme(arguments: argparse.Namespace, command: str) -> int:
    from bench import readme, records

    readme.write(records.read(arguments.records or _newest()), Path("README.md"), Path("docs/measured.svg"))
    return 0


def _kernels(arguments: argparse.Namespace, command: str) -> int:
    from bench import kernels, records

    arguments.out.write_text(kernels.page(records.read(arguments.records or _newest())), encoding="utf-8")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; 2 for a command line that cannot be obeyed, 1 for wrong results."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = parser().parse_args(given)
    try:
        return int(arguments.act(arguments, "python -m bench " + shlex.join(given)))
    except (ValueError, FileNotFoundError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
