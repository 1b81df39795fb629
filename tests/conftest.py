"""What every test shares: which ones run by default, and a cache directory that is nobody's own."""

import os
import tempfile

import pytest

# Before fastconv is imported here or in a subprocess: measured figures of this machine must not steer
# a test, nor a test leave any.
_cache = tempfile.TemporaryDirectory(prefix="fastconv-tests-")
os.environ["FASTCONV_CACHE_DIR"] = _cache.name

# An editable install compiles what changed at the first import. Here that is once, before xdist starts
# processes that would all do it at the same time.
import fastconv  # noqa: E402, F401

LATER = {
    "slow": "slow: make test-all runs it",
    "peers": "needs torch or SciPy: make test-all runs it",
    "browser": "needs a browser: make test-all runs it",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run slow, peers and browser tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    for item in items:
        for name, reason in LATER.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))
