"""Why a test may be skipped. A run with any other skip, or more of them, fails: conftest.py."""

from __future__ import annotations

import re
from typing import NamedTuple


class Expected(NamedTuple):
    """Skips whose whole reason matches `pattern`, at most so many of them, and what makes them right."""

    name: str
    pattern: str
    at_most: int
    why: str


EXPECTED = (
    Expected(
        "naive over its limit",
        r"naive: over \d+ .*: runs in make test-all",
        400,
        "0.25 us each in plain Python",
    ),
    Expected(
        "not Winograd's",
        r"cython_winograd_f\d refuses .*: it is for kernels of .*",
        2000,
        "a refusal by design: 3x3 of stride 1 and dilation 1 is what the transforms are for",
    ),
    Expected("slow", r"slow: runs in make test-all", 100, "more than ten seconds each"),
    Expected("peers", r"peers: runs in make test-all", 2000, "make test needs neither torch nor SciPy"),
    Expected(
        "all peers",
        r"\w+: in the extra all-peers, which make test-all does not need",
        30,
        "hundreds of MB, to be measured against alone",
    ),
    Expected("harness", r"the harness needs the bench extra", 4, "make test brings it; a lean environment need not"),
    Expected("instruction set", r"this machine does not run v\d", 50, "not this CPU's kernels"),
    Expected("level not built", r"v\d is not built", 20, "a build of one instruction set only, -Disa="),
    Expected(
        "no sanitizer", r"no C compiler|no sanitizer: .*|this kernel's address .*", 5, "the pool is stressed there"
    ),
    Expected("no objdump", r"no objdump|compiled by .*, which keeps .*", 20, "its reading of gcc's code is tested"),
    Expected("other platform", r"not x86-64 Linux|protects pages with Linux.s mprotect", 10, "Linux's"),
)


def expectation(reason: str) -> Expected | None:
    """The entry that allows a skip for `reason`."""
    return next((entry for entry in EXPECTED if re.fullmatch(entry.pattern, reason)), None)
