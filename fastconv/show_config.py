"""What a bug report should begin with: versions, machine, threads, and who is available here."""

from __future__ import annotations

import platform
import sys

import numpy as np

from fastconv import settings
from fastconv.explanation import algorithms
from fastconv.machine import machine


def show_config() -> str:
    """Versions, machine, settings in force, and every algorithm with the reason where it is unavailable.

    Returns
    -------
    str
        Several lines, for people.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.show_config().splitlines()[0].startswith("fastconv ")
    True
    """
    import fastconv

    lines = [
        f"fastconv {fastconv.__version__}, Python {platform.python_version()}, NumPy {np.__version__}, {sys.platform}",
        f"machine: {machine()}",
        f"threads: {settings.get_num_threads()}",
        f"settings: {settings.current()}",
    ]
    for family in settings.FAMILIES:
        lines += [f"{family} {entry.name}: {entry.reason or 'available'}" for entry in algorithms(family)]
    return "\n".join(lines)
