"""`make bench` and `make bench-full`: which layers, how many rounds, on how many threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
