"""Facts about this machine, figures on disk, and measured limits."""

import dataclasses
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from fastconv import limits, store
from fastconv.kernels.cython import built, load
from fastconv.machine import X86_LEVELS, Limits, _possible_levels, forget, machine, store_limits


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_CACHE_DIR", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache"
    forget()


# -- Store ------------------------------------------------------------------------------------------


def test_what_was_written_is_read(cache):
    assert store.read("limits", "abc") is None
    assert store.write("limits", "abc", {"a": [1, 2.5, None]})
    assert store.read("limits", "abc") == {"a": [1, 2.5, None]}
    assert store.read("limits", "other") is None
    assert [file.name for file in cache.iterdir()] == ["limits-abc.json"], "no temporary file is left"


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "null", "\xff\xfe", "[" * 100_000, '{"format": 1}', '{"format": 0, "data": 1}'],
)
def test_damaged_files_are_dropped(cache, damage):
    store.write("limits", "abc", 1)
    file = store.path("limits", "abc")
    file.write_bytes(damage.encode("latin-1"))
    assert store.read("limits", "abc") is None
    assert not file.exists()


def test_truncated_at_every_byte(cache):
    store.write("limits", "abc", {"a": 1})
    file = store.path("limits", "abc")
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert store.read("limits", "abc") is None


def test_other_versions_are_dropped(cache):
    store.write("limits", "abc", 1, version=1)
    assert store.read("limits", "abc", version=2) is None
    assert not store.path("limits", "abc").exists()


def test_an_unwritable_directory_is_tolerated(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTCONV_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert store.write("limits", "abc", 1) is False
    assert store.read("limits", "abc") is None


def test_a_directory_in_the_place_of_the_file(cache):
    store.path("limits", "abc").mkdir(parents=True)
    assert store.read("limits", "abc") is None
    assert store.write("limits", "abc", 1) is False
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("key", ["", "..", "a/b", ".hidden", "a b", "a-b"])
def test_a_key_is_no_path(key):
    with pytest.raises(ValueError, match="file name"):
        store.path("limits", key)


def test_where_the_directory_is(monkeypatch):
    monkeypatch.delenv("FASTCONV_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/y")
    assert store.directory() == Path("/x/y/fastconv")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert store.directory() == Path("/home/someone/.cache/fastconv")


# -- Machine ----------------------------------------------------------------------------------------


def test_facts_are_sane():
    here = machine()
    assert here.cores >= 1
    assert here.memory > 64 << 20
    assert 4 << 10 <= here.l1 <= here.l2
    assert here.cpu
    assert here.level in (*X86_LEVELS, "base")
    assert here is machine()
    assert len(here.fingerprint) == 16
    hash(here)


def test_levels_agree_with_the_kernel():
    """The operating system's own reading of CPUID, where there is one."""
    text = Path("/proc/cpuinfo")
    if machine().architecture != "x86_64" or not text.exists():
        pytest.skip("not x86-64 Linux")
    flags = next(line for line in text.read_text().splitlines() if line.startswith("flags")).split()
    v2 = {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"} <= set(flags)
    v3 = v2 and {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"} <= set(flags)
    v4 = v3 and {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= set(flags)
    expected = [level for level, has in (("v4", v4), ("v3", v3), ("v2", v2)) if has]
    assert _possible_levels() == tuple(expected)


def in_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("level", _possible_levels())
def test_a_forced_level(level):
    if level not in built.LEVELS:
        pytest.skip(f"{level} is not built")
    code = """
from fastconv.machine import machine
from fastconv.kernels.cython import load
print(machine().levels, machine().forced, load("limits", machine().levels).__name__)
"""
    output = in_process(code, FASTCONV_ISA=level).stdout
    assert output.strip() == f"('{level}',) {level} fastconv.kernels.cython.limits_{level}"


@pytest.mark.parametrize("level", _possible_levels())
def test_info_shows_a_forced_level(level):
    shown = in_process("from fastconv.cli import main; main(['info'])", FASTCONV_ISA=level).stdout
    (line,) = (line for line in shown.splitlines() if line.startswith("machine: "))
    assert f"levels=('{level}',)" in line
    assert f"forced='{level}'" in line


@pytest.mark.parametrize("wrong", ["v9", "avx2", "V3", "v3,v2"])
def test_a_level_that_does_not_exist(wrong):
    done = in_process("import fastconv; fastconv.machine()", FASTCONV_ISA=wrong)
    assert done.returncode == 1
    assert f"FASTCONV_ISA={wrong!r}" in done.stderr
    assert _possible_levels()[0] in done.stderr
    assert in_process("import fastconv", FASTCONV_ISA=wrong).returncode == 0


def test_default_figures():
    here = dataclasses.replace(machine(), measured=None)
    assert 1e9 < here.peak_flops("float64") < here.peak_flops("float32") < 1e12
    assert 1e9 < here.copy_bandwidth < 1e12
    with pytest.raises(ValueError, match="dtype"):
        here.peak_flops("int8")


def test_measured_figures_are_used_and_kept(cache):
    level = machine().level
    figures = Limits({level: 100.0}, {level: 50.0}, 20.0, 90.0, 1e-6, 2e-6, 1, 100.0)
    assert machine().measured is None
    assert store_limits(figures)
    assert machine().measured == figures
    assert machine().peak_flops("float32") == 100e9
    assert machine().copy_bandwidth == 20e9
    file = next(cache.iterdir())
    envelope = json.loads(file.read_text())
    for data in (None, [], {"float32": 1}, {**envelope["data"], "copy_memory": 0}, {**envelope["data"], "x": 1}):
        file.write_text(json.dumps({**envelope, "data": data}))
        forget()
        assert machine().measured is None


# -- Limits -----------------------------------------------------------------------------------------


@pytest.mark.serial
def test_measured_limits_are_sane(cache):
    found = limits.measure(seconds=1.0)
    assert machine().measured == found
    levels = [level for level in machine().levels if level in built.LEVELS]
    assert list(found.float32) == list(found.float64) == levels
    best = [found.float32[level] for level in levels]
    assert all(better > 0.8 * worse for better, worse in pairwise(best))
    for level in levels:
        assert 0.7 < found.float32[level] / found.float64[level] / 2 < 1.4
        assert 1 < found.float32[level] < 1000
    assert 0.5 < found.copy_memory < 1000
    assert found.copy_cache > 0.8 * found.copy_memory
    assert 0 < found.call_overhead < 1e-3


def test_levels_differ():
    """Each level was really compiled with its own vectors."""
    levels = [level for level in machine().levels if level in built.LEVELS]
    lanes = {"v4": 16, "v3": 8, "v2": 4, "base": 4}
    flops = [load("limits", (level,)).FLOPS["float32"] / lanes[level] for level in levels]
    assert len(set(flops)) == 1
