"""tune: the fastest is taken, by this process and the next, whatever happens to the file meanwhile."""

import os
import subprocess
import sys

import numpy as np
import pytest

import fastconv
from fastconv import planner, store, tuning
from fastconv.algorithm import Direction
from fastconv.machine import machine
from tests.copies import ROOT

TEXT = "f32_n1c8h12w12_k8r3s3_pad1:1,1:1"
PROBLEM = fastconv.parse_problem(TEXT)
POOL = "max_f32_n1c4h8w8_r2s2_stride2x2"


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_CACHE_DIR", str(tmp_path))
    yield from forgotten()


def forgotten():
    planner._tuned.cache_clear()
    planner.forget_plans()
    yield
    planner._tuned.cache_clear()
    planner.forget_plans()


@pytest.fixture
def stopwatch(monkeypatch):
    """Whoever is named is the fastest."""

    def make(name):
        monkeypatch.setattr(
            tuning, "_timed", lambda calls: {entry: 1e-6 if entry == name else 1e-3 for entry in calls}
        )  # fmt: skip

    monkeypatch.setattr(tuning, "FAR", 1e9)
    return make


def names_of(problem):
    """Who may be chosen in every direction; Numba's may have been compiled for one alone."""
    answers = [planner.candidates(problem, direction) for direction in Direction]
    return [found[0].algorithm.name for found in zip(*answers) if not any(answer.reason for answer in found)]


def test_the_fastest_is_taken_from_then_on(stopwatch):
    for name in names_of(PROBLEM):
        stopwatch(name)
        found = fastconv.tune([TEXT])
        assert [entry.direction for entry in found] == ["forward", "backward_input", "backward_weight"]
        assert {entry.algorithm for entry in found} == {name}
        for direction in Direction:
            assert planner.plan(PROBLEM, direction).algorithm == name
        shown = str(fastconv.explain(TEXT))
        assert "chosen: the fastest when tuned" in shown
        assert f"->  {name} " in shown


def test_it_holds_for_its_threads_and_within_the_settings(stopwatch):
    estimated = planner.plan(PROBLEM, Direction.FORWARD).algorithm
    chosen = next(name for name in names_of(PROBLEM) if name != estimated)
    stopwatch(chosen)
    with fastconv.use(threads=3):
        fastconv.tune([PROBLEM])
        assert planner.plan(PROBLEM, Direction.FORWARD).algorithm == chosen
        with fastconv.use(algorithm="naive"):
            assert planner.plan(PROBLEM, Direction.FORWARD).algorithm == "naive"
        assert planner.plan(PROBLEM, Direction.FORWARD, estimated).algorithm == estimated
    with fastconv.use(threads=2):
        assert planner.plan(PROBLEM, Direction.FORWARD).algorithm == estimated
    for narrow in ({"tolerance": 0}, {"workspace_limit": 4096}):  # what is the fastest there says nothing elsewhere
        before = planner.plan(PROBLEM, Direction.FORWARD).algorithm
        stopwatch("naive")
        with fastconv.use(**narrow):
            fastconv.tune([PROBLEM])
            assert planner.plan(PROBLEM, Direction.FORWARD).algorithm == "naive"
        assert planner.plan(PROBLEM, Direction.FORWARD).algorithm == before


def test_real_times_in_every_direction_of_both_families():
    found = fastconv.tune([TEXT, fastconv.parse_problem(POOL), "avg_" + POOL[4:], "f32_n0c1h4w4_k1r1s1"])
    assert [(str(entry.problem)[:3], entry.direction) for entry in found] == [
        *(("f32", direction.value) for direction in Direction), ("max", "forward"), ("max", "backward_input"),
        ("avg", "forward"), ("avg", "backward_input"),
    ]  # fmt: skip
    for entry in found:
        assert entry.algorithm == min(entry.seconds, key=entry.seconds.get)
        assert all(0 < seconds < 1 for seconds in entry.seconds.values())
        assert "naive" not in entry.seconds or "cython_tiled" not in entry.seconds


def python(code, directory):
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "FASTCONV_CACHE_DIR": str(directory)}, cwd=ROOT,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


PLANNED = """
import fastconv
fastconv.set_num_threads(2)
print(fastconv.plan_conv2d((1, 8, 12, 12), (8, 8, 3, 3), padding=1).algorithm)
"""


def test_the_next_process_takes_it_and_a_damaged_file_is_no_file(stopwatch, tmp_path):
    (estimated,) = python(PLANNED, tmp_path)
    stopwatch("im2col_gemm")
    with fastconv.use(threads=2):
        fastconv.tune([TEXT])
    assert python(PLANNED, tmp_path) == ["im2col_gemm"]
    file = store.path("tuned", machine().fingerprint)
    whole = file.read_text()
    for damaged in (whole[:50], "", "[]", whole.replace("im2col_gemm", "gone"), whole.replace('"im2col_gemm"', "3")):
        file.write_text(damaged)
        assert python(PLANNED, tmp_path) == [estimated]


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    code = "import sys\nfrom fastconv import store\n"
    code += "for i in range(40): store.update('k', 'm', {f'{sys.argv[1]} {i}': i})"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(who)], env={**os.environ, "FASTCONV_CACHE_DIR": str(tmp_path)}, cwd=ROOT
        )
        for who in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    assert len(store.read("k", "m")) == 160


def test_a_disk_that_cannot_be_written_is_no_error(stopwatch, monkeypatch):
    monkeypatch.setenv("FASTCONV_CACHE_DIR", "/proc/nowhere")
    stopwatch("im2col_gemm")
    fastconv.tune([TEXT])
    assert planner.plan(PROBLEM, Direction.FORWARD).algorithm == "im2col_gemm"


def test_bad_input_is_refused():
    for wrong in (TEXT, PROBLEM):
        with pytest.raises(TypeError, match="list of problems"):
            fastconv.tune(wrong)
    for wrong in ([3], [None], [np.ones(3)]):
        with pytest.raises(TypeError, match="problems must be problems or their texts"):
            fastconv.tune(wrong)
    with pytest.raises(fastconv.InvalidProblem):
        fastconv.tune(["f32_n1c8"])
    assert fastconv.tune([]) == []
