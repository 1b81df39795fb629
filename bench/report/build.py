"""All parts of the page, into its template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from bench import bars, presets
from bench.records import Run
from bench.report import frames, network, photograph, plots, sweeps, verdict

_HERE = Path(__file__).parent


def page(run: Run) -> str:
    """The whole page as one text that refers to nothing outside of it."""
    table = frames.frame(run)
    names = frames.candidates(table, run.head["candidates"])
    styles = plots.styles(names)
    light, dark = plots.sheet(styles)
    sections = sweeps.sections(run, table, styles)
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    style = style.replace("/* series: light */", light).replace("/* series: dark */", dark)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    template = environment.get_template("page.html.j2")
    return template.render(
        style=Markup(style),
        head=run.head,
        machine=_machine(run),
        figures=verdict.figures(run, table),
        standings=verdict.standings(table, names),
        noise=verdict.noise(run, table),
        names=names,
        styles=styles,
        groups=[
            (title, found) for family, title in verdict.FAMILIES.items()
            if (found := [section for section in sections if section.family == family])
        ],
        bars=_bars(run),
        photograph=photograph.photograph(),
        network=network.vgg16(),
        svg=Markup,
    )  # fmt: skip


def _bars(run: Run) -> list[bars.Verdict]:
    """The preset's bars, where it still exists and has some."""
    try:
        preset = presets.load(run.head["preset"])
    except ValueError:
        return []
    return bars.judge(preset.bars, run)


def _machine(run: Run) -> list[tuple[str, str]]:
    """What the figures depend on, as pairs of a name and a value."""
    about: dict[str, Any] = run.head["environment"]
    caches = ", ".join(f"{level.upper()} {frames.size(size)}" for level, size in about["caches"].items() if size)
    blas = ", ".join(
        " ".join(str(entry[key]) for key in ("internal_api", "version", "architecture") if entry.get(key))
        for entry in about["blas"] if entry.get("user_api") == "blas"
    )  # fmt: skip
    commit = about["commit"]
    pairs = [
        ("Processor", f"{about['cpu']}, {about['cores']} cores, {', '.join(about['levels']) or 'no known levels'}"),
        ("Caches", caches),
        ("Memory", frames.size(about["memory"])),
        ("System", about["system"] + (f", governor {about['governor']}" if about["governor"] else "")),
        ("Threads", ", ".join(str(count) for count in dict.fromkeys(row["threads"] for row in run.rows))),
        ("Versions", ", ".join([f"fastconv {about['fastconv']}", f"Python {about['python']}",
                                *(f"{name} {version}" for name, version in about["packages"].items())])),
        ("BLAS", blas or "none found"),
        ("Commit", commit["id"][:12] + (" with changes" if commit["dirty"] else "") if commit else "not a checkout"),
        ("Measured", about["time"]),
    ]  # fmt: skip
    for entry in run.limits:
        if entry["when"] == "before":
            threads = f"{entry['threads']} thread{'s' * (entry['threads'] > 1)}"
            limits = (
                f"{frames.number(entry['threads_float32'])} GFLOP/s multiply-add, "
                f"{frames.number(entry['copy_memory'])} GB/s copy in memory, "
                f"{frames.number(entry['copy_cache'])} GB/s in cache"
            )
            pairs.append((f"Limits, {threads}", limits))
    return pairs
