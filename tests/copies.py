"""A copy of the project that Python prefers to the installed one, in itself and in its child processes.

For tests that change the source: a planted fault (mutants.py), a fifth algorithm (test_extension.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: What a copy holds, where it exists.
PARTS = ("fastconv", "tests", "bench", "pyproject.toml", "meson.build", "meson.options", "README.md", "LICENSE")

#: Runs after the .pth file of an editable install, in every Python started with the copy in PYTHONPATH.
_SITECUSTOMIZE = '''"""Keeps the editable install of fastconv out of the way of this copy."""

import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if "Mesonpy" not in type(finder).__name__]
sys.path_hooks[:] = [hook for hook in sys.path_hooks if "Mesonpy" not in getattr(hook, "__qualname__", "")]
sys.path_importer_cache.clear()
'''


def make_copy(target: Path) -> Path:
    """Copy the sources to `target`, which must not exist."""
    target.mkdir(parents=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__", "*.so", "reports"))
        elif source.exists():
            shutil.copy2(source, target / part)
    (target / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    return target


def add_installed_extensions(copy: Path) -> None:
    """Put the compiled modules of the installed package beside the copied sources."""
    from fastconv import _native
    from fastconv.kernels.cython import built

    shutil.copy2(_native.__file__, copy / "fastconv")
    kernels = copy / "fastconv" / "kernels" / "cython"
    shutil.copy2(built.__file__, kernels)
    add_extensions(copy, Path(built.__file__).parent)


def add_extensions(copy: Path, build: Path) -> None:
    """Put what meson compiled in `build` where it belongs in the copy."""
    kernels = copy / "fastconv" / "kernels" / "cython"
    for module in build.glob("*.so"):
        shutil.copy2(module, copy / "fastconv" if module.name.startswith("_native") else kernels)
    shutil.copy2(build / "built.py", kernels)


def run_in_copy(
    copy: Path, arguments: Sequence[str], *, timeout: float = 300, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments, such as ["-m", "pytest"], in and from the copy; `variables` are set besides."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", **(variables or {})}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, timeout=timeout, capture_output=True, text=True
    )
