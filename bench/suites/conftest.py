"""`make bench` and `make bench-full`: which layers, how many rounds, on how many threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

import fastconv
import fastconv.limits
from bench.environment import wait_passively
from bench.run import using_threads

wait_passively()


def pytest_addoption(parser: pytest.Parser) -> None:
    with contextlib.suppress(ValueError):  # tests/ has the same option
        parser.addoption("--all", action="store_true", help="every layer of every network, and more rounds")
    parser.addoption("--threads", type=int, default=None, help="of every engine; by default the machine's cores")


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The thread count of the session, in force for every engine."""
    count = request.config.getoption("--threads") or fastconv.machine().cores
    with using_threads(count):
        yield count


@pytest.fixture(scope="session")
def limits(threads: int) -> dict[str, float]:
    """What this machine can do, measured once: `peak` in GFLOP/s and `copy` in GB/s, of all threads together."""
    measured = fastconv.limits.measure(2.0, threads)
    return {"peak": measured.threads_float32, "copy": measured.copy_memory}


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any) -> None:
    """All groups again, a line each, with the rates side by side: what pytest-benchmark's tables don't show."""
    session = getattr(terminalreporter.config, "_benchmarksession", None)
    groups: dict[str, list[tuple[float, str]]] = {}
    for entry in getattr(session, "benchmarks", []):
        rates = [(info, entry.extra_info[info]) for info in ("GFLOP/s", "GB/s") if info in entry.extra_info]
        for unit, rate in rates:
            name = f"{entry.params['name']} {rate:.3g}"
            groups.setdefault(f"{entry.group} [{unit}]", []).append((rate, name))
    if groups:
        terminalreporter.section("rates at the median, fastest first")
        for group, names in groups.items():
            terminalreporter.line(f"{group}: {', '.join(name for _, name in sorted(names, reverse=True))}")
