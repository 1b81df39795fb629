"""What every test shares: which ones run by default, an account of the skipped ones, and a clean place to run in."""

import math
import os
import tempfile
from collections import Counter

import pytest

# Before fastconv is imported here or in a subprocess: measured figures of this machine must not steer
# a test, nor a test leave any.
_cache = tempfile.TemporaryDirectory(prefix="fastconv-tests-")
os.environ["FASTCONV_CACHE_DIR"] = _cache.name

# An editable install compiles what changed at the first import. Here that is once, before xdist starts
# processes that would all do it at the same time.
import fastconv  # noqa: E402, F401
from tests import checks  # noqa: E402
from tests.expected_skips import expectation  # noqa: E402

#: Markers of what make test leaves out, and make test-all runs.
LATER = ("slow", "peers")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run slow and peers tests too, and naive on every problem")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--all"):
        checks.most_naive_macs = math.inf


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    for item in items:
        for name in LATER:
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=f"{name}: runs in make test-all"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give one process every test that runs a Numba kernel, so that each is compiled once; the others any test."""
    from xdist.scheduler import LoadScopeScheduling

    class ByCompiler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "compiled by Numba" if compiles(nodeid) else nodeid

    return ByCompiler(config, log)


def compiles(nodeid: str) -> bool:
    """Whether a test's parameters name numba_direct, or it runs every algorithm there is in its own process."""
    return "numba_direct" in nodeid or "every_algorithm_agrees" in nodeid or "32_python_threads_mix" in nodeid


# -- The account of skips ---------------------------------------------------------------------------


def _skip_reasons(config: pytest.Config) -> Counter[str]:
    """How many tests were skipped for which reason; under xdist known to the controller alone."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    counts: Counter[str] = Counter()
    for report in reporter.stats.get("skipped", []) if reporter else []:
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        counts[text.removeprefix("Skipped: ")] += 1
    return counts


def account(counts: Counter[str]) -> tuple[list[str], bool]:
    """Lines that say what was skipped and why, and whether each skip was expected."""
    lines, totals, fine = [], Counter(), True
    for reason, count in sorted(counts.items()):
        entry = expectation(reason)
        if entry is None:
            lines.append(f"{count:5}  NOT EXPECTED: {reason}")
            fine = False
        else:
            totals[entry] += count
    for entry, count in totals.items():
        over = f"  TOO MANY: at most {entry.at_most} expected" if count > entry.at_most else ""
        fine = fine and not over
        lines.append(f"{count:5}  {entry.name} ({entry.why}){over}")
    return lines, fine


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if not account(_skip_reasons(session.config))[1] and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = _skip_reasons(terminalreporter.config)
    lines, _ = account(counts)
    terminalreporter.section(f"{sum(counts.values())} tests skipped, and why")
    for line in lines:
        terminalreporter.line(line)
    _summarize_cases_of_torch(terminalreporter)


# -- The account of torch's cases --------------------------------------------------------------------


def cases_of_torch(properties: list[tuple[str, tuple[str, str, list[tuple[str, str, int]]]]]) -> list[str]:
    """Lines of how many cases of each operator passed, were skipped or refused, and why: test_torch_cases.py."""
    lines = []
    for operator, algorithms, outcomes in sorted(value for _, value in properties):
        totals: Counter[str] = Counter()
        for outcome, _, count in outcomes:
            totals[outcome] += count
        kinds = ", ".join(f"{totals[outcome]} {outcome}" for outcome in ("passed", "skipped", "refused"))
        computed = f", {totals['computed']} computed that torch refuses" if totals["computed"] else ""
        reasons = "; ".join(f"{why}: {count}" for _, why, count in outcomes if why)
        by = f" by {algorithms}" if algorithms else ""
        lines.append(f"{operator:24}{kinds}{computed}{by}{f' ({reasons})' if reasons else ''}")
    return lines


def _summarize_cases_of_torch(reporter: pytest.TerminalReporter) -> None:
    properties = [entry for report in reporter.stats.get("passed", []) for entry in report.user_properties]
    for where in ("torch's cases, frozen", "torch's cases, beside torch"):
        chosen = [entry for entry in properties if entry[0] == where]
        if chosen:
            reporter.section(f"{where}: every case in float32 and float64, errors once")
            for line in cases_of_torch(chosen):
                reporter.line(line)


# -- A clean place ----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _same_settings_afterwards():
    """A test that configures the process puts nothing in the way of the next one."""
    from fastconv import settings, threads

    before = settings._process, threads._setting
    yield
    settings._process, threads._setting = before


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Limits that a test measures, in a hurry, are not what the user's machine can do."""
    from fastconv.machine import forget

    before = os.environ.get("FASTCONV_CACHE_DIR")
    os.environ["FASTCONV_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    forget()
    yield
    if before is None:
        del os.environ["FASTCONV_CACHE_DIR"]
    else:
        os.environ["FASTCONV_CACHE_DIR"] = before
    forget()
