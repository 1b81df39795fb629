"""The compiled kernels under AddressSanitizer and UndefinedBehaviorSanitizer: `make sanitize`.

They are built with both in build/sanitize and put into a copy of the project there, in which their tests run once for
each instruction set of this machine. The first finding ends the tests of its level, and is shown. What goes unseen:
within one slot of scratch all is one piece of memory, and AVX-512's masked loads and stores are not looked at; these
are left to the guard pages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.copies import add_extensions, make_copy, run_in_copy  # noqa: E402

PLACE = ROOT / "build" / "sanitize"
HANGS = 3600.0

TESTS = (
    "tests/test_cython_kernels.py",
    "tests/test_depthwise.py",
    "tests/test_conformance_conv.py",
    "tests/test_conformance_pool.py",
    "tests/test_blocks.py",
    "tests/test_winograd.py",
    "tests/test_prepared.py",
    "tests/test_guard_pages.py",
)
#: Only what is compiled here; and a segmentation fault, which one test provokes, is none under AddressSanitizer.
WHICH = "not numba_direct and not naive and not im2col_gemm and not byte_beyond"

#: What each sanitizer must say of `items` int64 counted from `shift` bytes behind the beginning of eight.
FAULT = """
import struct
import numpy as np
from fastconv import _native, threads
from tests.checks import Memory
counts = Memory((8,), np.int64)
threads.run(_native.TEST_KERNELS["count"], struct.pack("N", counts.array.ctypes.data + {shift}), {items}, 1)
"""
FAULTS = {"use-after-poison": {"shift": 0, "items": 9}, "misaligned address": {"shift": 4, "items": 7}}


def build(isa: str) -> Path:
    """Compile what changed since the last time; a copy of the project with the results."""
    tools = Path(sys.executable).parent
    options = [f"-Disa={isa}", "-Db_sanitize=address,undefined"]
    made = (PLACE / "build.ninja").exists()
    command = ["configure", PLACE, *options] if made else ["setup", PLACE, ROOT, *options]
    subprocess.run([tools / "meson", *command], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([tools / "ninja", "-C", PLACE], check=True)
    copy = PLACE / "project"
    shutil.rmtree(copy, ignore_errors=True)
    make_copy(copy)
    add_extensions(copy, PLACE)
    return copy


def libraries() -> str:
    """The sanitizers' own libraries, which must be the first that Python loads."""
    found = []
    for name in ("libasan.so", "libubsan.so"):
        command = [os.environ.get("CC") or "cc", f"-print-file-name={name}"]
        path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
        if not path.is_absolute():
            raise SystemExit(f"this compiler has no {name}; gcc on Linux brings it")
        found.append(str(path))
    return " ".join(found)


def run(copy: Path, level: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the copy on one instruction set; what the sanitizers find is on its standard error."""
    variables = {
        "FASTCONV_ISA": level,
        "LD_PRELOAD": libraries(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python and NumPy keep objects to the end
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # each object is an allocation of its own
    }
    return run_in_copy(copy, arguments, timeout=HANGS, variables=variables)


def main(isa: str) -> int:
    """Build for one instruction set, or all; 1 if anything is found, or the sanitizers are blind."""
    from fastconv.machine import machine

    copy = build(isa)
    levels = [level for level in machine().levels if isa in ("all", level)]
    faults = 0
    for level in levels:
        for name, fault in FAULTS.items():
            if name not in (said := run(copy, level, "-c", FAULT.format(**fault)).stderr):
                print(f"{level}: a planted fault goes unnoticed, {name}:\n{said}")
                return 1
        # Not captured by descriptor: a process that a sanitizer ends would take its report along.
        options = ("-q", "-x", "--no-header", "--capture=sys", "-p", "no:cacheprovider", "-k", WHICH)
        done = run(copy, level, "-m", "pytest", *options, *TESTS)
        print(f"{level}: {(done.stdout.strip() or 'no test ran').splitlines()[-1]}", flush=True)
        if done.returncode:
            faults += 1
            print(done.stdout[-4000:] + done.stderr[-8000:])
    return 1 if faults or not levels else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
