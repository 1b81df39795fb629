"""The build: every extension is there, the right one is chosen, and importing costs little."""

import compileall
import fnmatch
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastconv.kernels import cython
from fastconv.kernels.cython import built, load
from fastconv.machine import machine

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(file.stem for file in (ROOT / "fastconv" / "kernels" / "cython").glob("*.pyx"))


def test_every_kernel_is_in_the_list_of_meson_build():
    assert sorted(built.KERNELS) == SOURCES


@pytest.mark.parametrize("level", built.LEVELS)
@pytest.mark.parametrize("name", built.KERNELS)
def test_every_extension_is_built(name, level):
    if level in machine().levels:
        assert load(name, (level,)).__name__ == f"fastconv.kernels.cython.{name}_{level}"
    else:  # importing runs no vector code, but nothing of it is any use here
        pytest.skip(f"this machine does not run {level}")


def test_the_best_common_level_is_chosen():
    best = next(level for level in machine().levels if level in built.LEVELS)
    assert load("limits", machine().levels).__name__.endswith("_" + best)
    assert load("limits", ["v9", best]) is load("limits", machine().levels)


@pytest.mark.parametrize(
    ("name", "levels", "reason"),
    [
        ("nonsense", ("v2",), "no compiled kernel 'nonsense'; this build holds .*limits"),
        ("limits", (), "this machine runs none"),
        ("limits", ("v9",), "built for v.*; this machine runs v9"),
    ],
)
def test_why_a_kernel_is_missing(name, levels, reason):
    with pytest.raises(ImportError, match=reason):
        load(name, levels)


def test_why_nothing_is_built(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastconv.kernels.cython.built", None)
    monkeypatch.delattr(cython, "built")
    with pytest.raises(ImportError, match="is not built"):
        load("limits", ("not yet asked for",))


def test_no_forbidden_flags():
    forbidden = "fast-math|native|associative|reciprocal|finite-math|-ffp-contract=(?!fast)"
    assert not re.search(forbidden, built.FLAGS)
    commands = [line for line in (ROOT / "meson.build").read_text().splitlines() if not line.startswith("#")]
    assert not re.search("-ffast-math|-Ofast|-march=native|-mtune=native", "\n".join(commands))


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_neither_numba_nor_a_kernel():
    loaded = python("import sys, fastconv, fastconv.kernels.cython; print(*sys.modules)").split()
    kernels = {f"fastconv.kernels.cython.{name}_{level}" for name in built.KERNELS for level in built.LEVELS}
    unwanted = {"numba", "llvmlite", "threadpoolctl", "scipy", "torch", "pandas", "multiprocessing"}
    assert not (kernels | unwanted) & set(loaded)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the package as an ordinary install does, byte code included: an editable one looks for
    changed sources and compiles every module anew in each process, which is no cost that a user has.
    """
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "fastconv", folder / "fastconv", ignore=lambda _, names: set(fnmatch.filter(names, "__py*")))
    modules = [f"{name}_{level}" for name in built.KERNELS for level in built.LEVELS]
    for name in ("fastconv._native", *(f"fastconv.kernels.cython.{module}" for module in ("built", *modules))):
        origin = Path(importlib.util.find_spec(name).origin)
        shutil.copy(origin, folder.joinpath(*name.split(".")[:-1], origin.name))
    assert compileall.compile_dir(folder, quiet=1)
    return folder


def seconds(installed, statements, before=""):
    """The least computing time of `statements` in a fresh process: it must hold beside whatever the machine does."""
    code = f"""
import sys, time
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
sys.path.insert(0, {str(installed)!r})
{before}
start = time.process_time()
{statements}
print(time.process_time() - start)
assert fastconv.__file__.startswith({str(installed)!r})
"""
    return min(float(python(code)) for _ in range(5))


@pytest.mark.serial
def test_importing_costs_little(installed):
    assert seconds(installed, "import fastconv", before="import numpy") < 0.1


@pytest.mark.serial
def test_the_first_convolution_of_a_process_costs_little(installed):
    """NumPy, fastconv, the choice of an algorithm and the loading of its kernels."""
    first = """
import numpy as np, fastconv
result = fastconv.conv2d(np.ones((1, 16, 28, 28), np.float32), np.ones((16, 16, 3, 3), np.float32))
assert abs(result[0, 0, 0, 0] - 144) < 1e-3
"""
    assert seconds(installed, first) < 0.25


def test_importing_leaves_the_floating_point_mode_alone():
    code = """
import numpy as np, fastconv
from fastconv.kernels.cython import load, built
from fastconv.machine import machine
for name in built.KERNELS:
    load(name, machine().levels)
print(np.float32(1e-40) * np.float32(0.5) > 0)
"""
    assert python(code).strip() == "True"


# -- make ... names the missing package -------------------------------------------------------------


def preflight(python, *, path=None, **environment):
    """Run the check of the system; return its exit code and what it said."""
    environment = {"PATH": path or os.environ["PATH"], **environment}
    script = ROOT / "tools" / "preflight.sh"
    done = subprocess.run(["/bin/sh", script, python], env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.fixture
def fake(tmp_path):
    """Make an executable that is the real Python but fails where `pattern` matches its arguments."""

    def make(pattern):
        file = tmp_path / "fake"
        file.write_text(f'#!/bin/sh\ncase "$*" in {pattern}) exit 1;; esac\nexec "{sys.executable}" "$@"\n')
        file.chmod(0o755)
        return str(file)

    return make


def test_nothing_is_missing_here():
    assert preflight(sys.executable) == (0, "")


def test_missing_everything(tmp_path):
    code, said = preflight("python3", path=str(tmp_path))
    assert code == 1
    assert "apt install python3 python3-venv python3-dev gcc libc6-dev" in said


def test_missing_compiler():
    code, said = preflight(sys.executable, CC="no-such-compiler")
    assert code == 1
    assert "apt install gcc libc6-dev\n" in said


def test_missing_c_headers(fake):
    code, said = preflight(sys.executable, CC=fake("*fsyntax-only*"))
    assert code == 1
    assert "apt install libc6-dev\n" in said


def test_missing_ensurepip(fake):
    code, said = preflight(fake("*ensurepip*"))
    assert code == 1
    assert "apt install python3-venv\n" in said


def test_missing_python_h(fake):
    code, said = preflight(fake("*Python.h*"))
    assert code == 1
    assert "apt install python3-dev\n" in said


def test_python_that_is_too_old(fake):
    code, said = preflight(fake("*version_info*"))
    assert code == 1
    assert "needs Python 3.11 or newer" in said
