"""Edge cases of resources and the runtime: docs/edge-cases.md says what each gets, and names its test.

Threads, forks and Ctrl-C are in test_concurrency.py, workspace in test_settings.py and test_workspace.py, the stored
figures in test_machine.py; here is the rest.
"""

from __future__ import annotations

import functools
import gc
import os
import subprocess
import sys

import pytest

from tests.calls import NAMES as CALLS
from tests.calls import run, valid_call
from tests.copies import ROOT


def python(code: str, *arguments: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **environment}, cwd=ROOT, timeout=120,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout.splitlines()


EXHAUSTED = """
import resource, numpy as np, fastconv
x, w = np.ones((1, 8, 32, 32), np.float32), np.ones((8, 8, 3, 3), np.float32)
huge = np.broadcast_to(np.float32(1), (64, 8, 512, 512))
# numba_direct, forward: test_workspace.py; naive would take its time before it asks for memory
convs = [entry.name for entry in fastconv.algorithms() if entry.name not in ("naive", "numba_direct")]
pools = [entry.name for entry in fastconv.algorithms("pool") if entry.name not in ("naive", "numba_direct")]
calls = {}
for name in convs:
    calls["backward " + name] = lambda x, n=name: fastconv.conv2d_backward(x, x, w, padding=1, algorithm=n)
    calls["transposed " + name] = lambda x, n=name: fastconv.conv_transpose2d(x, w, padding=1, algorithm=n)
for name in pools:
    calls["max " + name] = lambda x, n=name: fastconv.max_pool2d(x, 3, 1, 1, return_indices=True, algorithm=n)
    calls["avg " + name] = lambda x, n=name: fastconv.avg_pool2d_backward(x, x, 3, 1, 1, algorithm=n)
calls["unfold"] = lambda x: fastconv.unfold(x, 3)
calls["pad"] = lambda x: fastconv.pad(x, (3, 3), mode="reflect")
calls["upsample"] = lambda x: fastconv.upsample(x, scale_factor=3)
calls["adaptive"] = lambda x: fastconv.adaptive_max_pool2d(x, 5)
calls["norm"] = lambda x: fastconv.local_response_norm(x, 3)
first = lambda found: found[0] if isinstance(found, tuple) else found
before = {what: first(call(x)) for what, call in calls.items()}  # the warm-up
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20, -1))
for what, call in calls.items():
    try:
        call(huge)
    except MemoryError:
        assert (first(call(x)) == before[what]).all(), what
    else:
        raise SystemExit(what + " found the memory")
assert fastconv.memory_stats()["in_use"] == 0
print("goes on")
"""


def test_memory_that_is_exhausted_anywhere_is_a_memory_error():
    """Each time the same call goes on being right on what fits."""
    assert python(EXHAUSTED) == ["goes on"]


#: Keyed by what there is in an installation, not by what a caller brings.
KERNELS = {"fastconv.kernels.cython._load", "fastconv.conv.compiled.kernels", "fastconv.pool.cython_tiled._kernels"}


def test_every_cache_is_bounded():
    """What is remembered by shapes, or by anything else that a caller brings, is dropped some day."""
    for name in CALLS:
        run(name, valid_call(name))  # imports what is imported late
    caches = {
        f"{cache.__module__}.{cache.__qualname__}": cache
        for cache in gc.get_objects()
        if isinstance(cache, functools._lru_cache_wrapper) and cache.__module__.startswith("fastconv.")
    }
    assert len(caches) > 8
    endless = {name for name, cache in caches.items() if cache.cache_parameters()["maxsize"] is None}
    assert {name for name in endless if caches[name].__wrapped__.__code__.co_argcount} <= KERNELS


BARE = """
import sys
for missing in sys.argv[1:]:
    sys.modules[missing] = None  # as if it were not there
import numpy as np, fastconv
fastconv.configure(tolerance=0)  # exact sums of integers, to compare
x, w = np.arange(2 * 3 * 36.0).reshape(2, 3, 6, 6) % 7, np.arange(4 * 27.0).reshape(4, 3, 3, 3) % 5
for family in ("conv", "pool"):
    for entry in fastconv.algorithms(family):
        print(family, entry.name, entry.available, entry.reason)
y = fastconv.conv2d(x, w, padding=1)
assert (y == fastconv.conv2d(x, w, padding=1, algorithm="naive")).all()
for one, other in zip(fastconv.conv2d_backward(y, x, w, padding=1),
                      fastconv.conv2d_backward(y, x, w, padding=1, algorithm="naive")):
    assert (one == other).all()
assert (fastconv.max_pool2d(x, 2) == fastconv.max_pool2d(x, 2, algorithm="naive")).all()
for entry in fastconv.algorithms():
    if not entry.available:
        try:
            fastconv.conv2d(x, w, algorithm=entry.name)
        except fastconv.UnsupportedProblem as error:
            assert entry.reason in str(error)
        else:
            raise SystemExit(entry.name + " ran")
        assert entry.reason in fastconv.show_config()
"""

NATIVE, BUILT = "fastconv._native", "fastconv.kernels.cython.built"


@pytest.mark.parametrize("missing", [("numba",), (BUILT,), (NATIVE,), ("numba", BUILT, NATIVE)], ids="+".join)
def test_without_what_is_compiled_the_rest_is_right(missing):
    """Importing works; what cannot run is listed with its reason, raises it when named, and is not chosen."""
    listed = [line.split(maxsplit=3) for line in python(BARE, *missing)]
    available = {(family, name) for family, name, runs, _ in listed if runs == "True"}
    lost = {"numba_direct"} if "numba" in missing else set()
    compiled = {name for _, name, _, _ in listed if name.startswith("cython")}
    lost |= compiled if {BUILT, NATIVE} & set(missing) else set()
    assert available == {(family, name) for family, name, _, _ in listed if name not in lost}
    for _, name, runs, reason in listed:
        assert (reason != "None") == (runs == "False"), name


@pytest.mark.parametrize("damage", ["a file in its place", "truncated files"])
def test_a_useless_cache_directory_changes_no_result(damage, tmp_path):
    """Measured figures are kept there: they steer the choice of an algorithm, and may be missing or broken."""
    cache = tmp_path / "cache"
    if damage == "truncated files":
        python("import fastconv.limits, fastconv.store as s; s.write('limits', 'abc', {'a': 1})",
               FASTCONV_CACHE_DIR=str(cache))  # fmt: skip
        for file in cache.iterdir():
            file.write_bytes(file.read_bytes()[:-3])
    else:
        cache.write_text("")
    code = """
import numpy as np, fastconv
x, w = np.ones((1, 3, 6, 6), np.float32), np.ones((4, 3, 3, 3), np.float32)
assert (fastconv.conv2d(x, w) == 27).all()
assert (fastconv.max_pool2d(x, 2) == 1).all()
assert fastconv.machine() and fastconv.explain("f32_n1c3h8w8_k4r3s3").chosen
print("fine")
"""
    assert python(code, FASTCONV_CACHE_DIR=str(cache)) == ["fine"]
