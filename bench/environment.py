"""Where, when and with what a run was made. No path of this machine is in it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastconv

_PEERS = ("torch", "onnx", "onnxruntime", "openvino", "ncnn")
_PACKAGES = ("numpy", "numba", "llvmlite", "cython", "threadpoolctl", *_PEERS)


def describe() -> dict[str, Any]:
    """Machine, versions, BLAS, commit and load, as a run's first record keeps them."""
    machine = fastconv.machine()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": machine.cpu,
        "architecture": machine.architecture,
        "levels": list(machine.levels),
        "cores": machine.cores,
        "caches": {"l1": machine.l1, "l2": machine.l2, "l3": machine.l3},
        "memory": machine.memory,
        "fingerprint": machine.fingerprint,
        "forced": machine.forced,
        "system": f"{platform.system()} {platform.release()}",
        "governor": _governor(),
        "python": platform.python_version(),
        "fastconv": fastconv.__version__,
        "packages": _versions(),
        "blas": blas(),
        "commit": commit(),
        "load": load(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def blas() -> list[dict[str, Any]]:
    """The thread pools of the numerical libraries that are loaded now."""
    import threadpoolctl

    keys = ("user_api", "internal_api", "version", "threading_layer", "architecture", "num_threads")
    return [{key: entry[key] for key in keys if key in entry} for entry in threadpoolctl.threadpool_info()]


def commit() -> dict[str, Any] | None:
    """The commit of this checkout, and whether tracked files differ from it; None outside of one."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(here), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"id": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def load() -> float | None:
    """Average number of runnable processes over the last minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _governor() -> str | None:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def wait_passively() -> None:
    """Let idle OpenMP threads sleep: spinning ones would eat the cores of whoever is timed next.

    To be called before any library that brings OpenMP is imported.
    """
    if not {"numba", *_PEERS} & set(sys.modules):
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("KMP_BLOCKTIME", "0")
