"""Scratch memory: aligned, returned on every path, bounded, and given up when memory runs short."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import fastconv
from fastconv import workspace
from tests.copies import ROOT


@pytest.fixture(autouse=True)
def _no_arenas_kept():
    workspace.empty_cache()
    yield
    workspace.empty_cache()


def test_arrays_start_on_cache_lines_and_do_not_overlap():
    with workspace.scratch(4096) as scratch:
        first, second = scratch.take((3, 5), np.float32), scratch.take((7,), np.float64)
        assert first.ctypes.data % workspace.ALIGNMENT == second.ctypes.data % workspace.ALIGNMENT == 0
        assert not np.may_share_memory(first, second)
        assert scratch.free == 4096 - 64 - 64


def test_released_scratch_is_handed_out_again():
    with workspace.scratch(256) as scratch:
        mark = scratch.mark()
        first = scratch.take((256,), np.uint8)
        scratch.release(mark)
        assert scratch.take((256,), np.uint8).ctypes.data == first.ctypes.data


def test_more_than_was_granted_is_refused():
    with workspace.scratch(64) as scratch, pytest.raises(AssertionError, match="exhausted"):
        scratch.take((65,), np.uint8)


def test_an_arena_returns_on_every_path_and_is_used_again():
    def fail():
        with workspace.scratch(10_000) as scratch:
            fail.address = scratch.take((1,), np.uint8).ctypes.data
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    stats = fastconv.memory_stats()
    assert stats["in_use"] == 0
    assert 10_000 <= stats["kept"] < 13_000
    with workspace.scratch(9_000) as scratch:
        assert scratch.take((1,), np.uint8).ctypes.data == fail.address
        assert fastconv.memory_stats()["kept"] == 0
    fastconv.empty_cache()
    assert fastconv.memory_stats()["kept"] == 0


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(workspace, "KEPT_BYTES", 100_000)
    arenas = [workspace.scratch(30_000) for _ in range(8)]
    for arena in arenas:
        arena.__enter__()
    assert fastconv.memory_stats()["in_use"] >= 8 * 30_000
    while arenas:
        arenas.pop().__exit__(None, None, None)
    del arena
    stats = fastconv.memory_stats()
    assert stats["in_use"] == 0
    assert 30_000 <= stats["kept"] <= 100_000
    assert stats["peak"] >= 8 * 30_000


def test_exhausted_memory_is_an_error_and_the_process_goes_on():
    """RLIMIT_AS just above what is used: MemoryError, after which small calls are right again."""
    script = textwrap.dedent("""
        import resource, numpy as np, fastconv
        x, w = np.ones((1, 8, 32, 32), np.float32), np.ones((8, 8, 3, 3), np.float32)
        before = {name.name: fastconv.conv2d(x, w, padding=1, algorithm=name.name)
                  for name in fastconv.algorithms() if name.available and name.name != "naive"}
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, -1))
        for name in before:
            try:
                big = fastconv.conv2d(np.broadcast_to(np.float32(1), (64, 8, 512, 512)), w, algorithm=name)
            except MemoryError:
                print("MemoryError", flush=True)
        for name, result in before.items():
            assert (fastconv.conv2d(x, w, padding=1, algorithm=name) == result).all()
        assert fastconv.memory_stats()["in_use"] == 0
        print("goes on", len(before))
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    *errors, last = done.stdout.split("\n")[:-1]
    assert last == f"goes on {len(errors)}"
    assert set(errors) == {"MemoryError"}


SHAPES = """
import sys, numpy as np, fastconv
names = sys.argv[1:]
rng = np.random.default_rng(0)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def ints(most, count):
    return [int(v) for v in rng.integers(1, most, count)]
def ones(*shape):
    return np.ones(shape, rng.choice(["float32", "float64"]))
def both(name, x, *rest, **how):
    y = getattr(fastconv, name)(x, *rest, **how)
    how.pop("return_indices", None)
    getattr(fastconv, name + "_backward")(y, x, *rest, **how)
def convolution(algorithm):
    axes, tiny = int(rng.integers(1, 4)), algorithm == "naive"
    (c, k), kernel = ints(3 if tiny else 24, 2), (3, 2, 2)[:axes]
    size = [n + 2 for n in ints((24, 3 if tiny else 24, 2 if tiny else 6)[axes - 1], axes)]
    x, f = ones(1, c, *size), np.ones((k, c, *kernel))
    if rng.random() < 0.5:
        return both(f"conv{axes}d", x, f.astype(x.dtype), algorithm=algorithm)
    f = np.ones((c, k, *kernel), x.dtype)
    both(f"conv_transpose{axes}d", x, f, stride=1 if tiny else ints(4, 1)[0], algorithm=algorithm)
def pool(algorithm):
    axes, tiny = int(rng.integers(1, 4)), algorithm == "naive"
    x = ones(1, *ints(3 if tiny else 24, 1), *[n + 3 for n in ints((24, 4 if tiny else 24, 6)[axes - 1], axes)])
    kind = str(rng.choice(["max", "avg", "lp"]))
    both(f"{kind}_pool{axes}d", x, *((2.0,) if kind == "lp" else ()), 2 + ints(3, 1)[0] % 2, algorithm=algorithm)
def others(_):
    x = ones(1, *ints(9, 3))
    name = str(rng.choice(["adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample", "pad", "correlate2d"]))
    if name == "correlate2d":
        fastconv.correlate2d(x[0, 0], ones(*ints(9, 2)))
    elif name == "pad":
        fastconv.pad(x, ints(9, 4))
    else:
        both(name, x, ints(9, 2))
families = ((convolution, "conv"), (pool, "pool"), (others, None))
algorithms = {family: [e.name for e in fastconv.algorithms(family) if e.name in names] for _, family in families[:2]}
def some(count):
    for _ in range(count):
        draw, family = families[int(rng.integers(3))]
        try:
            draw(None if family is None else str(rng.choice(algorithms[family])))
        except fastconv.UnsupportedProblem:
            pass
some(500)
before = resident()
some(2000)
print(resident() - before)
"""


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["cython_tiled", "im2col_gemm", "naive"], id="loaded"),
        pytest.param(["numba_direct"], id="numba_direct", marks=pytest.mark.slow),  # it compiles a minute
    ],
)
def test_many_shapes_leave_memory_flat(names):
    """2,000 different shapes of every kind of function: caches are bounded, arenas shared, resident memory stays."""
    done = subprocess.run(
        [sys.executable, "-c", SHAPES, *names], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) < 40 * 2**20


INTERRUPTS = """
import os, random, signal, sys, threading, time
import numpy as np
import fastconv
from fastconv import threads, workspace

class Interrupt(Exception):
    pass

def handler(*_):
    raise Interrupt

signal.signal(signal.SIGALRM, handler)
x, w = np.ones((1, 2, 9, 9), np.float32), np.ones((3, 2, 3, 3), np.float32)
names = [entry.name for entry in fastconv.algorithms() if entry.name in ("cython_tiled", "im2col_gemm")]
expected = {name: fastconv.conv2d(x, w, algorithm=name) for name in names}
interrupts, deadline, randomness = 0, time.monotonic() + 4, random.Random(1)
while time.monotonic() < deadline:
    try:
        signal.setitimer(signal.ITIMER_REAL, randomness.uniform(5e-5, 5e-4))
        while True:
            for name in names:
                for nbytes in (5_000, 60_000):
                    with workspace.scratch(nbytes) as granted:
                        assert granted.reserve(nbytes)
                assert (fastconv.conv2d(x, w, algorithm=name) == expected[name]).all()
    except Interrupt:
        interrupts += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert interrupts > 200, interrupts
stats = fastconv.memory_stats()
assert stats["in_use"] == 0, stats
assert [arena[0] for arena in workspace._idle] == sorted(arena[2].size for arena in workspace._idle)
done = []
other = threading.Thread(target=lambda: done.append([fastconv.conv2d(x, w, algorithm=name) for name in names]))
other.start()
other.join(30)
assert done, "another thread's call hangs"
start = time.monotonic()
child = os.fork()
if child == 0:
    os._exit(0 if (fastconv.conv2d(x, w, algorithm=names[0]) == expected[names[0]]).all() else 1)
assert os.waitpid(child, 0)[1] == 0
assert time.monotonic() - start < 20, "a fork waits for somebody who is not there"
"""


def test_an_interrupt_may_come_between_any_two_lines():
    """Hundreds of signals whose handler raises: nothing is lost, nothing stays locked, no grant is too small."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTS], capture_output=True, text=True, timeout=120, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


# -- Results ----------------------------------------------------------------------------------------

LARGE = (4, 64, 128, 128)


def test_a_result_takes_the_memory_that_one_before_left():
    first = workspace.result(LARGE, np.float32)
    address = first.ctypes.data
    assert first.flags.owndata
    assert address % 64 == 0
    del first
    assert fastconv.memory_stats()["kept"] >= 4 * math.prod(LARGE)
    second = workspace.result(LARGE, np.float32)
    assert second.ctypes.data == address
    third = workspace.result(LARGE, np.float32)
    assert not np.may_share_memory(second, third)
    del second, third
    fastconv.empty_cache()
    assert fastconv.memory_stats()["kept"] == 0


def test_results_that_live_never_share_and_what_is_kept_is_bounded():
    """Random sizes come and go, are resized and copied; each keeps the number that was written to all of it."""
    rng = np.random.default_rng(0)
    living = []
    for count in range(600):
        if living and rng.random() < 0.5:
            number, array = living.pop(rng.integers(len(living)))
            assert (array == number).all()
            if rng.random() < 0.2:
                size = int(rng.integers(1, 500_000))
                array.resize(size, refcheck=False)
                kept = min(size, array.size)
                assert (array[:kept][array[:kept] != 0] == number).all()
        else:
            array = workspace.result((int(rng.integers(60_000, 400_000)),), np.float32)
            array[:] = count + 1
            living.append((count + 1, array))
    assert 0 < fastconv.memory_stats()["kept"] <= 256 * 2**20
    assert all((array == number).all() for number, array in living)


def test_many_large_results_leave_no_more_than_is_kept():
    results = [workspace.result((16 << 20,), np.float32) for _ in range(6)]  # 64 MiB each, 256 are kept
    results.clear()
    assert 0 < fastconv.memory_stats()["kept"] <= 256 * 2**20
    fastconv.empty_cache()


def test_a_result_that_is_too_large_is_an_error():
    with pytest.raises(MemoryError):
        workspace.result((2**45,), np.float32)
    with pytest.raises((MemoryError, ValueError)):
        workspace.result((2**62,), np.float32)
