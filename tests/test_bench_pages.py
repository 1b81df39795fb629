"""The harness as a whole: its commands, a tiny run, and the pages and tables made from it."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandas", reason="the harness needs the bench extra")
pytest.importorskip("matplotlib", reason="the harness needs the bench extra")

sys.path.append(str(Path(__file__).parent.parent))  # the harness is not installed; an installed fastconv comes first

import fastconv
from bench import __main__ as shell
from bench import bars, presets, records, reference, run
from bench.report import build, frames, photograph, plots, verdict
from tests.made_runs import A, a_run

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("own_cache")


# -- The shell, a whole tiny run, and its page ------------------------------------------------------


#: Nothing to compile: the whole harness is tested on these, and once on all (slow).
QUICK = ("im2col_gemm", "naive")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny.jsonl"
    assert shell.main(["run", "--preset", "tiny", "--algorithms", ",".join(QUICK), "--out", str(path)]) == 0
    return path


def test_a_run_records_everything(tiny):
    read = records.read(tiny)
    assert read.head["schema"] == records.SCHEMA
    about = read.head["environment"]
    assert {"cpu", "caches", "levels", "packages", "blas", "commit", "load", "python"} <= set(about)
    assert str(ROOT) not in tiny.read_text(), "no path of this machine belongs into a record"
    assert {entry["when"] for entry in read.limits} == {"before", "after"}
    assert read.end is not None
    expected = [(task.direction, str(task.problem)) for task in run.tasks(presets.load("tiny"))]
    assert list(dict.fromkeys((row["direction"], row["problem"]) for row in read.rows)) == expected
    for row in read.rows:
        assert row["status"] in ("timed", "refused")
        if row["status"] == "timed":
            assert row["minimum"] <= row["low"] <= row["median"] <= row["high"]
            assert len(row["samples"]) >= 3
            assert row["error"] <= row["allowed_error"]
            assert row["first_call"] > 0


def test_problems_from_the_command_line(tmp_path, capsys):
    out = tmp_path / "run.jsonl"
    problems = ["f32_c1h4w4_k1r3s3", "max_c1h4w4_r2s2"]
    options = ["--directions", "forward", "--threads", "1", "--algorithms", "naive,auto", "--seconds", "0.2"]
    assert shell.main(["run", "--problems", *problems, *options, "--out", str(out)]) == 0
    rows = records.read(out).rows
    assert [row["name"] for row in rows] == ["naive", "auto"] * 2
    assert "max_f32_n1c1h4w4_r2s2_stride2x2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--preset", "no-such"], "quick"),
        (["run", "--algorithms", "no_such"], "naive"),
        (["run", "--peers", "no_such"], "torch"),
        (["run", "--sweeps", "no-such"], "conv-kernel"),
        (["run", "--directions", "sideways"], "forward"),
        (["run", "--problems", "nonsense"], "nonsense"),
        (["report", "no-such.jsonl"], "no-such"),
    ],
)
def test_a_command_that_cannot_be_obeyed(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shell.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_wrong_results_end_the_run_with_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reference, "conv", lambda problem, input, weight: np.ones(problem.output_shape))
    options = ["--directions", "forward", "--algorithms", "naive", "--seconds", "0.1", "--threads", "1"]
    assert shell.main(["run", "--problems", A, *options, "--out", str(tmp_path / "run.jsonl")]) == 1
    assert "wrong: naive" in capsys.readouterr().err


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text, self.stack = [], [], [], []
        self.images = 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        assert not [name for name in named if name.startswith("on")], "no handlers"
        self.addresses += [named[key] for key in ("src", "href", "action", "poster") if key in named]
        if tag == "img":
            assert named["alt"]
        if tag == "svg":
            assert named["role"] == "img"
            assert named["aria-label"]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def small_photo(monkeypatch):
    photo, compute = np.arange(70.0, dtype=np.float32).reshape(7, 10), photograph.photograph
    monkeypatch.setattr(photograph, "photograph", lambda: compute(list(QUICK), photo))


def outside(page):
    return [address for address in page.addresses if not address.startswith(("#", "data:"))]


def test_the_page_of_a_tiny_run(tiny, tmp_path, small_photo):
    out = tmp_path / "index.html"
    assert shell.main(["report", str(tiny), "--out", str(out)]) == 0
    check_page(out.read_text(), QUICK)


@pytest.mark.slow
def test_a_run_of_every_algorithm_and_its_page(tmp_path):
    """As users make it: Numba compiles, and the photograph is the real one."""
    path, out = tmp_path / "run.jsonl", tmp_path / "index.html"
    assert shell.main(["run", "--preset", "tiny", "--seconds", "150", "--out", str(path)]) == 0
    refused = [row["name"] for row in records.read(path).rows if row["status"] != "timed"]
    assert all(name.startswith("cython_winograd") for name in refused), "which are for 3x3 of stride 1"
    assert shell.main(["report", str(path), "--out", str(out)]) == 0
    check_page(out.read_text(), [entry.name for entry in fastconv.algorithms("conv") if entry.available])


def check_page(text, names):
    page = Page(text)
    assert outside(page) == []
    assert not re.search(r"https?:|@import|url\((?!#)", text), "nothing on the page points outside of it"
    assert "script" not in page.tags
    assert page.tags.count("svg") == 3 + 3 + 2 + 2, "a plot per sweep and direction, and two of VGG-16"
    assert page.tags.count("img") == 1 + len(names), "the photograph, and an edge map for each algorithm"
    rounded = {"cython_winograd_f4", "cython_winograd_f6"} & set(names)
    assert text.count("equal to the bit") >= len(names) - len(rounded)
    assert text.count(" of the largest, ") == len(rounded)
    said = " ".join(" ".join(page.text).split())
    assert "params: 7*7*512*4096 = 102,760,448" in said
    assert "138,344,128 weights" in said
    assert "58.1 MiB" in said
    assert str(ROOT) not in text
    assert len(text) < 3_000_000
    ids = re.findall(r'\sid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    for used in re.findall(r'href="#([^"]+)"', text) + re.findall(r"url\(#([^)]+)\)", text):
        assert used in ids


HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'&"


def test_hostile_names_stay_text(tiny, small_photo):
    read = records.read(tiny)
    read.head["title"] = read.head["command"] = HOSTILE
    read.head["candidates"].append(HOSTILE)
    read.head["environment"]["cpu"] = HOSTILE
    read.head["sweeps"][0] |= {"title": HOSTILE, "parameter": HOSTILE}
    read.rows += [{**row, "name": HOSTILE} for row in read.rows if row["name"] == "naive"]
    read.rows[0] |= {"status": "failed", "reason": HOSTILE}
    page = Page(build.page(read))
    assert "script" not in page.tags
    assert outside(page) == []
    assert HOSTILE in "".join(page.text)


def test_noise_is_said():
    rows = [(A, "forward", 1, "ours", [1.0] * 9), (A, "forward", 2, "ours", [0.5] * 9)]
    quiet = a_run(*rows)
    quiet.head["environment"], quiet.end = {"load": 0.1}, {}
    quiet.rows[0] |= {"low": 1.0, "high": 1.01}
    quiet.rows[1] |= {"low": 0.5, "high": 0.51}
    assert not verdict.noise(quiet, frames.frame(quiet)).noisy, "two threads peak higher than one: that is no noise"
    for change in ({"load": 3.0}, {"high": 2.0}, {"peak": 5.0}):
        noisy = a_run(*rows)
        noisy.head["environment"], noisy.end = {"load": change.get("load", 0.1)}, {}
        for row in noisy.rows:
            row |= {"low": row["median"], "high": row["median"] * change.get("high", 1.0)}
        noisy.limits.append({**noisy.limits[0], "threads_float32": change.get("peak", 10.0)})
        assert verdict.noise(noisy, frames.frame(noisy)).noisy, change


def test_problems_of_no_sweep_have_a_table(tiny, small_photo):
    read = records.read(tiny)
    read.head["sweeps"] = read.head["sweeps"][:1]
    read.head["layers"] = [{"network": "net", "name": "pool", "problem": "max_f32_n1c2h8w8_r2s2_stride2x2", "count": 1}]
    text = build.page(read)
    assert "net pool" in text
    assert "avg_f32_n1c4h8w8_r2s2_stride2x2" in text
    assert Page(text).tags.count("svg") == 3 + 2


def test_a_page_of_a_run_without_rows(tiny, small_photo):
    read = records.read(tiny)
    read.rows.clear()
    read.limits.clear()
    read.end = None
    assert "was cut short" in build.page(read)


def test_the_photographs_edges_are_compared_with_whole_numbers(monkeypatch):
    photo = np.arange(70.0, dtype=np.float32).reshape(7, 10)
    _, good = photograph.photograph(["naive"], photo).images
    assert good.equal
    conv2d = fastconv.conv2d
    monkeypatch.setattr(fastconv, "conv2d", lambda *args, **named: conv2d(*args, **named) + 1)
    _, bad = photograph.photograph(["naive"], photo).images
    assert not bad.equal
    assert "140 values differ" in bad.note


def test_figures_as_people_read_them():
    assert [frames.number(value) for value in (0.0123, 1.234, 12.34, 1234.5)] == ["0.012", "1.23", "12.3", "1,234"]
    assert frames.duration(0.00123) == "1.23 ms"
    assert frames.percent(None) == "–"
    assert frames.size(1 << 20) == "1.00 MiB"


def test_every_candidate_has_a_look_of_its_own():
    names = ["cython_tiled", "torch", "torch_channels_last", "cython_winograd_f2", "cython_winograd_f4", "toy", "toy2"]
    looks = plots.styles(names)
    assert len({look.light for look in looks.values()}) == len(names)
    assert len({look.variable for look in looks.values()}) == len(names)


# -- pytest-benchmark ----------------------------------------------------------


def test_the_suite_of_real_layers(tmp_path):
    out = tmp_path / "benchmark.json"
    command = [sys.executable, "-m", "pytest", "bench/suites", "--benchmark-only", "-q", "-p", "no:cacheprovider"]
    command += ["-k", "n1c16h5w5_k120r5s5-forward-im2col_gemm", f"--benchmark-json={out}", "--threads", "1"]
    # Not as a worker of ours: under xdist pytest-benchmark measures nothing.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run([*command, "-p", "no:xdist"], cwd=ROOT, capture_output=True, text=True, env=outside)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "im2col_gemm" in done.stdout.split("fastest first")[1]
    (entry,) = json.loads(out.read_text())["benchmarks"]
    assert entry["group"] == "f32_n1c16h5w5_k120r5s5 forward"
    assert entry["stats"]["rounds"] >= 5
    info = entry["extra_info"]
    assert {"GFLOP/s", "share of peak", "workspace bytes", "threads", "first call seconds", "error"} == set(info)
    assert info["threads"] == 1
    assert 0 < info["share of peak"] < 1.5


# -- README's table and picture ---------------------------------------------------------------------


def test_readme_holds_the_table_and_picture_of_a_run(tiny, tmp_path):
    from bench import readme

    document, drawing = tmp_path / "README.md", tmp_path / "measured.svg"
    document.write_text(f"before\n{readme.BEGIN}\nold figures\n{readme.END}\nafter\n")
    run = records.read(tiny)
    readme.write(run, document, drawing)
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{readme.END}\nafter\n")
    assert "old figures" not in text
    assert run.head["command"] in text
    for entry in run.rows:
        assert f"| `{entry['problem']}` | {frames.TITLES[entry['direction']].lower()} |" in text
    assert text.count("**") == 2 * sum(line.startswith("| `") for line in text.splitlines()), "one fastest each"
    assert "<svg" in drawing.read_text()
    before = text
    readme.write(run, document, drawing)
    assert document.read_text() == before


@pytest.mark.parametrize("document", ["", "<!-- measured: end --> <!-- measured: begin -->"])
def test_readme_without_its_markers_is_refused(document):
    from bench import readme

    with pytest.raises(ValueError, match="measured: begin"):
        readme.insert(document, "table")


# -- The page of compiled kernels -------------------------------------------------------------------


def test_the_page_of_kernels_is_made_from_a_run(tmp_path):
    from bench import kernels

    measured, out = tmp_path / "tiny.jsonl", tmp_path / "kernels.md"
    preset = ("--preset", "tiny", "--algorithms", "cython_tiled", "--seconds", "0.3")
    assert shell.main(["run", *preset, "--out", str(measured)]) == 0
    assert shell.main(["kernels", str(measured), "--out", str(out)]) == 0
    text, run = out.read_text(), records.read(measured)
    for known in (run.head["command"], run.head["environment"]["cpu"], run.limits[0]["level"]):
        assert known in text
    assert [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")] == [
        kernel.module for kernel in kernels.KERNELS
    ]
    largest = [row for row in run.rows if row["family"] == "max" and row["direction"].startswith("forward")]
    by_share = sorted(largest, key=lambda row: bars.share_of("copy", row, run))
    (line,) = (line for line in text.splitlines() if line.startswith("| `pool`: maxima"))
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[4] == str(len(largest)) == "4"
    for cell, row in ((cells[5:7], by_share[-1]), (cells[7:9], by_share[0])):
        title = frames.TITLES[row["direction"]].lower()
        assert cell == [frames.percent(bars.share_of("copy", row, run)), f"`{row['problem']}` {title}"]


def test_every_compiled_kernel_is_on_its_page_and_measured():
    from bench import kernels
    from fastconv.kernels.cython import built

    assert {kernel.module for kernel in kernels.KERNELS} == set(built.KERNELS)
    found = {kernels.kernel_of(task.problem, task.direction) for task in run.tasks(presets.load("kernels"))}
    assert found == {kernel for kernel in kernels.KERNELS if kernel.measure}


CONVOLUTIONS = [task for task in run.tasks(presets.load("kernels")) if isinstance(task.problem, fastconv.ConvProblem)]


@pytest.mark.parametrize("task", CONVOLUTIONS, ids=lambda task: f"{task.problem}-{task.direction}")
def test_the_page_names_the_kernel_that_the_engine_takes(task):
    from bench import kernels
    from fastconv.algorithm import Direction
    from fastconv.conv import compiled, correlation, depthwise, depthwise_channels, dots

    problem, direction = task.problem, Direction(task.direction)
    if depthwise.takes(problem, direction):
        taken = kernels.DEPTHWISE_DOTS if direction is Direction.BACKWARD_WEIGHT else kernels.GATHER
    elif depthwise_channels.takes(problem, direction):
        taken = kernels.CHANNELS
    elif direction is Direction.BACKWARD_WEIGHT:
        taken = kernels.DOTS if dots.takes(problem, compiled.vector_bytes()) else kernels.GRADIENT
    else:
        schedule = correlation.correlation(problem, direction, compiled.vector_bytes())
        taken = kernels.LINES if schedule.fields["narrow"] else kernels.TILES
    assert kernels.kernel_of(problem, task.direction) == taken
