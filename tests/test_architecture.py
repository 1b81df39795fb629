"""Who may import whom, held by reading the source; and the shape that every file keeps."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastconv
from fastconv import conv, pool

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fastconv"

# -- The rule ---------------------------------------------------------------------------------------

#: Serve all rooms and import none of them; among themselves only downwards, which Python itself sees to.
SERVING = {
    "errors", "problem", "problem_text", "algorithm", "settings", "machine", "store", "workspace", "threads", "jit",
    "taps", "winograd", "_native",
}  # fmt: skip

#: Each room, and the rooms beside its own and the serving modules that it may import.
MAY_IMPORT = {
    "functional": {"planner", "explanation"},
    "explanation": {"planner"},
    "tuning": {"planner"},
    "show_config": {"explanation", "planner"},
    "planner": {"conv", "pool"},
    "conv": {"kernels"},
    "pool": {"kernels"},
    "kernels": set(),
    "limits": {"kernels"},
    "nn": {"functional"},
    "models": {"nn"},
    "summary": {"nn", "models", "planner"},
    **{module: set() for module in SERVING},
}
#: The files that the registries list; what else is in conv/ and pool/ may be shared by them.
ALGORITHMS = {"conv": set(conv._FILES), "pool": set(pool._FILES)}
KERNELS_MAY_IMPORT = {"numpy", "numba", "libc", "cython", "math", "struct", "llvmlite", "typing", "__future__"}
#: Standard library modules of kernels/*/__init__.py, which loads kernels and computes nothing.
LOADERS_MAY_IMPORT = {"collections", "functools", "importlib", "types", "typing"}
#: Modules that are public beside the names of the package.
PUBLIC_MODULES = {"limits", "models", "summary"}
SPECIAL = {"__init__", "__main__", "cli"}  # may import everything public


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it is imported at the top) of each import in a module's source."""
    tree = ast.parse(source)
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = parts[: len(parts) - node.level + is_package]
                base = ".".join([*kept, base] if base else kept)
            for alias in node.names:
                yield f"{base}.{alias.name}", id(node) in top
        elif _imports_module(node):
            yield str(node.args[0].value), False


def _imports_module(node: ast.AST) -> bool:
    """import_module("a name that can be read here")."""
    called = isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", ""))
    return called == "import_module" and bool(node.args) and isinstance(node.args[0], ast.Constant)


def room_of(name: str) -> str | None:
    """ "conv" of fastconv.conv.naive; None outside of fastconv, "" for the package itself."""
    parts = name.split(".")
    if parts[0] != "fastconv":
        return None
    if len(parts) == 1 or not _is_module(parts[1]):
        return ""
    return parts[1]


def _is_module(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists() or (PACKAGE / f"{name}.pyx").exists()


def complaints(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """What is wrong with the imports of one module."""
    found = []
    parts = module.split(".")
    for name, at_top in imports(source, module, is_package=is_package):
        target = name.split(".")
        if target[0] == "tests" and parts[0] != "tests":
            found.append(f"{module} imports {name}: nobody imports tests")
        if target[0] == "bench" and parts[0] not in ("bench", "tests"):
            found.append(f"{module} imports {name}: nobody imports bench")
        room = room_of(name)
        if parts[0] == "bench" and room is not None:
            found += _bench(module, name, target)
        if parts[0] != "fastconv":
            continue
        own = parts[1] if len(parts) > 1 else "__init__"
        if own not in MAY_IMPORT and own not in SPECIAL:
            found.append(f"{module} is a room that test_architecture.py does not know")
            continue
        if own == "kernels" and room is None:
            allowed = KERNELS_MAY_IMPORT | (LOADERS_MAY_IMPORT if is_package else set())
            if target[0] not in allowed:
                found.append(f"{module} imports {name}: kernels import numpy, numba and libc only")
        elif own == "kernels" and room != "kernels":
            found.append(f"{module} imports {name}: kernels know nothing of fastconv")
        if room is None or own in SPECIAL or room == own == "kernels":
            continue
        if room == "":
            if own != "show_config":
                found.append(f"{module} imports {name}: the package imports its modules, not the other way round")
        elif room != own and room not in MAY_IMPORT[own] and (room not in SERVING or own == "kernels"):
            found.append(f"{module} imports {name}: {own} may import {sorted(MAY_IMPORT[own] | SERVING)}")
        if own in ("conv", "pool"):
            found += _algorithm(module, name, target, own, at_top)
    return found


def _bench(module: str, name: str, target: list[str]) -> list[str]:
    allowed = len(target) == 1 or target[1] in {*fastconv.__all__, *PUBLIC_MODULES, "__version__"}
    return [] if allowed else [f"{module} imports {name}: bench uses fastconv's public names and modules"]


def _algorithm(module: str, name: str, target: list[str], own: str, at_top: bool) -> list[str]:
    found = []
    inner = target[2] if len(target) > 2 else ""
    myself = module.split(".")[2] if module.count(".") > 1 else ""
    if target[1] in ALGORITHMS and inner in ALGORITHMS[target[1]] - {myself} and myself:
        found.append(f"{module} imports {name}: an algorithm never imports another")
    if (
        target[1] == "kernels"
        and at_top
        and (inner not in ("", "cython", "load") or target[2:] not in ([], [inner], ["cython", "load"]))
    ):
        found.append(f"{module} imports {name} at its top: an algorithm loads its kernels inside a cached function")
    return found


def modules(*places: str) -> list[tuple[str, Path]]:
    """(dotted name, file) of every Python and Cython module below these directories."""
    found = []
    for place in places:
        for file in sorted((ROOT / place).rglob("*.py*")):
            if file.suffix in (".py", ".pyx") and "__pycache__" not in file.parts:
                parts = file.relative_to(ROOT).with_suffix("").parts
                found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), file))
    return found


PYTHON = [(name, file) for name, file in modules("fastconv", "bench") if file.suffix == ".py"]
CYTHON = [(name, file) for name, file in modules("fastconv") if file.suffix == ".pyx"]


@pytest.mark.parametrize(("module", "file"), PYTHON, ids=[name for name, _ in PYTHON])
def test_imports_go_the_right_way(module, file):
    assert not complaints(module, file.read_text(), is_package=file.name == "__init__.py")


@pytest.mark.parametrize(("module", "file"), CYTHON, ids=[name for name, _ in CYTHON])
def test_cython_kernels_import_libc_and_nothing_of_ours(module, file):
    for line in file.read_text().splitlines():
        match = re.match(r"\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w., ]+))", line)
        if match and module.startswith("fastconv.kernels"):
            for name in (match[1] or match[2]).split(","):
                if not name.strip().startswith("fastconv.kernels.cython."):  # another's declarations, by cimport
                    assert name.strip().split(".")[0] in KERNELS_MAY_IMPORT, line


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastconv.problem", "from fastconv.planner import plan"),
        ("fastconv.threads", "import fastconv.conv.naive"),
        ("fastconv.workspace", "def f():\n    from fastconv import planner"),
        ("fastconv.algorithm", "from . import planner"),
        ("fastconv.planner", "from fastconv.functional import conv2d"),
        ("fastconv.planner", "from fastconv.kernels import cython"),
        ("fastconv.functional.conv", "from fastconv.conv.naive import forward"),
        ("fastconv.functional.conv", "from ..kernels import cython"),
        ("fastconv.conv.toy", "from fastconv.conv.naive import forward"),
        ("fastconv.conv.toy", "from fastconv.conv import naive"),
        ("fastconv.conv.toy", "from .naive import forward"),
        ("fastconv.conv.toy", "from fastconv.pool.naive import window"),
        ("fastconv.conv.toy", "from fastconv import planner"),
        ("fastconv.conv.toy", "from fastconv.kernels.numba.direct import forward"),
        ("fastconv.pool.toy", "import fastconv.planner"),
        ("fastconv.kernels.numba.toy", "from fastconv.problem import ConvProblem"),
        ("fastconv.kernels.numba.toy", "import scipy"),
        ("fastconv.kernels.numba.toy", "import functools"),
        ("fastconv.models.net", "from fastconv.functional import conv2d"),
        ("fastconv.nn.layer", "from fastconv.planner import plan"),
        ("fastconv.settings", "import tests.oracle"),
        ("fastconv.cli", "from bench import run"),
        ("fastconv.newroom", "import fastconv.problem"),
        ("fastconv.planner", "import fastconv"),
        ("bench.run", "from fastconv.planner import REGISTRY"),
        ("bench.run", "import fastconv.workspace"),
        ("bench.run", "from tests import oracle"),
        ("fastconv.problem", 'from importlib import import_module\nimport_module("fastconv.planner")'),
    ],
)
def test_a_forbidden_import_is_noticed(module, source):
    assert complaints(module, textwrap.dedent(source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fastconv.functional.conv", "from fastconv.planner import plan\nfrom fastconv.problem import Ints"),
        ("fastconv.conv.toy", "from fastconv.algorithm import Algorithm\nfrom fastconv.kernels.cython import load"),
        ("fastconv.conv.toy", "def kernels():\n    from fastconv.kernels.numba import direct"),
        ("fastconv.conv.toy", "from fastconv.conv.volumes import with_volumes"),
        (
            "fastconv.kernels.numba.toy",
            "import numpy as np\nfrom numba import njit\nfrom fastconv.kernels.numba import x",
        ),
        ("bench.run", "import fastconv\nfrom fastconv.limits import measure\nfrom fastconv import parse_problem"),
        ("fastconv.cli", "from fastconv import summary"),
    ],
)
def test_a_right_import_passes(module, source):
    assert not complaints(module, source)


def test_nothing_is_loaded_before_it_is_needed():
    """Importing fastconv loads neither Numba nor a compiled kernel nor anything of the harness."""
    code = "import sys, fastconv; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fastconv.planner" in loaded
    for name in ("numba", "scipy", "torch", "pandas", "matplotlib", "threadpoolctl", "fastconv.summary"):
        assert name not in loaded
    kernels = [name for name in loaded if name.startswith("fastconv.kernels.") and re.search(r"_(v\d|base)$", name)]
    assert not kernels


# -- The shape of a file ----------------------------------------------------------------------------

ALGORITHM_FILES = [
    (name, file)
    for name, file in PYTHON
    if name.split(".")[-1] in ALGORITHMS.get(name.split(".")[1] if "." in name else "", ())
]
SECTIONS = (
    "unavailable", "refusal", "ready", "error", "cost", "workspace_bytes", "prepare_weight", "forward",
    "backward_input", "backward_weight", "ALGORITHMS",
)  # fmt: skip


def sections(source: str) -> list[str]:
    """The contract's names in the order in which a file defines them at its top."""
    names = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if name in SECTIONS]


def in_order(names: list[str]) -> bool:
    return names == [name for name in SECTIONS if name in names] and names[-1:] == ["ALGORITHMS"]


@pytest.mark.parametrize(("module", "file"), ALGORITHM_FILES, ids=[name for name, _ in ALGORITHM_FILES])
def test_an_algorithm_file_keeps_the_order(module, file):
    source = file.read_text()
    names = sections(source)
    assert in_order(names), names
    assert {"forward", "backward_input"} <= set(names)
    assert ast.get_docstring(ast.parse(source)), "the contraction, its work, its memory, its numerical note"
    assert isinstance(ast.parse(source).body[-1], (ast.Assign, ast.AnnAssign)), "the file ends with its ALGORITHMS"


def test_a_wrong_order_is_noticed():
    right = "def refusal(): ...\ndef cost(): ...\ndef forward(): ...\nALGORITHMS = ()"
    assert in_order(sections(right))
    assert not in_order(sections("def cost(): ...\ndef refusal(): ...\nALGORITHMS = ()"))
    assert not in_order(sections("ALGORITHMS = ()\ndef forward(): ..."))
    assert not in_order(sections("def forward(): ...\ndef forward(): ...\nALGORITHMS = ()"))
    assert not in_order(sections("def forward(): ..."))


FORBIDDEN = {
    r"fastmath[\"']?\s*[=:](?!\s*(False|\{\"contract\"\}))": "IEEE arithmetic, but for the contraction of a * b + c",
    r"-f(fast|unsafe|finite|associative)-math|-Ofast|-march=native": "IEEE arithmetic",
    r"^\s*(import|from)\s+(pickle|marshal|shelve)\b|\ballow_pickle\s*=\s*True": "nothing on disk is executed",
    r"\beval\(|\bexec\(|os\.system\(|shell\s*=\s*True": "no text is run as code",
    r"pragma omp|\bprange\b.*openmp|cython\.parallel": "threads live in threads.py alone",
}  # fmt: skip


def forbidden(text: str) -> list[str]:
    return [
        f"{rule}: {line.strip()}"
        for pattern, rule in FORBIDDEN.items()
        for line in text.splitlines()
        if re.search(pattern, line)
    ]


SOURCES = [
    file
    for place in ("fastconv", "bench")
    for file in sorted((ROOT / place).rglob("*"))
    if file.suffix in (".py", ".pyx", ".pxd", ".h", ".c", ".in") and "__pycache__" not in file.parts
]


def short(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", [*SOURCES, ROOT / "meson.build"], ids=short)
def test_nothing_forbidden_is_in_the_source(file):
    assert not forbidden(file.read_text())


@pytest.mark.parametrize(
    "line",
    [
        "@njit(fastmath=True)", '{"fastmath": {"contract", "nnan"}}',
        "flags = ['-ffast-math']", "import pickle", "from pickle import loads",
        "np.load(f, allow_pickle=True)", "eval(text)", "subprocess.run(x, shell=True)", "#pragma omp parallel for",
        "c_args: ['-march=native']", "@njit(fastmath={'reassoc'})", "from cython.parallel import prange",
    ],
)  # fmt: skip
def test_something_forbidden_is_noticed(line):
    assert forbidden(f"first\n    {line}\n")
    assert not forbidden("x = evaluate(1)\nfastmath=False\n# -march=x86-64-v3\n")


@pytest.mark.parametrize("file", SOURCES, ids=short)
def test_no_file_is_too_long(file):
    """A god module is found early: split it by what it does."""
    assert len(file.read_text().splitlines()) <= 450


# -- Documentation ----------------------------------------------------------------------------------

PUBLIC = [name for name in fastconv.__all__ if inspect.isfunction(getattr(fastconv, name))]
NEEDS_NOTHING = {"get_num_threads", "machine", "show_config", "empty_cache", "memory_stats"}


def undocumented(function) -> list[str]:
    """Numpydoc sections that a public function's docstring lacks."""
    text = inspect.getdoc(function) or ""
    parameters = inspect.signature(function).parameters
    returns = inspect.signature(function).return_annotation not in (None, "None", inspect.Signature.empty)
    wanted = {"Parameters": bool(parameters), "Returns": returns, "Raises": bool(parameters), "Examples": True}
    missing = [name for name, needed in wanted.items() if needed and f"\n{name}\n{'-' * len(name)}\n" not in text]
    if "Parameters" not in missing and parameters:
        described = text.split("Parameters\n----------\n")[1].split("\n\n")[0]
        missing += [name for name in parameters if not re.search(rf"^[\w, ]*\b{name}\b", described, re.M)]
    return missing


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in NEEDS_NOTHING | {"configure"}])
def test_public_functions_are_documented(name):
    assert not undocumented(getattr(fastconv, name))


def test_a_missing_section_is_noticed():
    def silent(a, b):
        """Nothing more."""

    def half(a: int, b: int) -> int:
        """Half.

        Parameters
        ----------
        a : int

        Returns
        -------
        int

        Examples
        --------
        >>> 1
        """

    assert undocumented(silent) == ["Parameters", "Raises", "Examples"]
    assert undocumented(half) == ["Raises", "b"]


@pytest.mark.parametrize("name", [name for name in dir(fastconv) if not name.startswith("_")])
def test_every_public_name_is_listed(name):
    thing = getattr(fastconv, name)
    assert name in fastconv.__all__ or inspect.ismodule(thing), "in the package, but not in __all__"


MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fastconv.__path__, "fastconv.")
    if "kernels" not in module.name and not module.name.endswith(("__main__", "_native"))
)


def test_examples_of_public_names_run_when_pasted():
    """Without the names that their module has: each imports what it uses."""
    runner, report = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), []
    for name in fastconv.__all__:
        found = doctest.DocTestFinder(recurse=False).find(getattr(fastconv, name), name, module=False, globs={})
        for example in found:
            runner.run(example, out=report.append)
    assert runner.tries > 100
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", ["fastconv", *MODULES])
def test_examples_run(name):
    """Every example of every docstring, in its own process's state."""
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0
