"""The harness: what it must notice, what it must not do, and that its page holds everything it shows."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandas", reason="the harness needs the bench extra")
pytest.importorskip("matplotlib", reason="the harness needs the bench extra")

sys.path.append(str(Path(__file__).parent.parent))  # the harness is not installed; an installed fastconv comes first

import fastconv
from bench import __main__ as shell
from bench import bars, candidates, data, measure, presets, records, reference, run, statistics
from bench.candidates import Prepared
from bench.report import build, frames, photograph, plots, verdict
from fastconv.machine import forget

ROOT = Path(__file__).parent.parent
CONV = fastconv.parse_problem("f32_n1c2h6w6_k3r3s3_pad1:1,1:1")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory):
    """Limits that a test measures, in a hurry, are not what the user's machine can do."""
    before = os.environ.get("FASTCONV_CACHE_DIR")
    os.environ["FASTCONV_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    forget()
    yield
    if before is None:
        del os.environ["FASTCONV_CACHE_DIR"]
    else:
        os.environ["FASTCONV_CACHE_DIR"] = before
    forget()


# -- Statistics -------------------------------------------------------------------------------------


def test_summary_of_samples():
    summary = statistics.summarise([4.0, 1.0, 2.0, 3.0, 5.0])
    assert summary == (1.0, 3.0, 2.0, 4.0)
    assert summary.spread == pytest.approx(2 / 3)


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [1.0, float("inf")], [1.0, 0.0], [-1.0]])
def test_samples_that_are_no_times_are_refused(samples):
    with pytest.raises(ValueError, match="samples"):
        statistics.summarise(samples)


def test_ratios_are_paired_by_round():
    # The machine was three times slower in the second half: means and medians mislead, pairs don't.
    assert statistics.paired_ratio([2.0, 2.0, 6.0, 6.0, 6.0], [1.0, 1.0, 3.0, 3.0, 3.0]) == 2.0
    with pytest.raises(ValueError, match="not pairs"):
        statistics.paired_ratio([1.0, 2.0], [1.0])


def test_geometric_mean():
    assert statistics.geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert statistics.geometric_mean([3.0, 0.0]) == 0.0, "a refused row counts as 0, not as nothing"
    assert np.isnan(statistics.geometric_mean([]))


# -- Data and reference -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_is_of_order_1_without_subnormals(dtype):
    values = data.normal(np.random.default_rng(0), (100, 100), dtype)
    assert values.dtype == dtype
    assert np.abs(values).min() >= data.SMALLEST
    assert 0.9 < values.std() < 1.1
    assert abs(values.mean()) < 0.1


ODD = [
    "f32_n2c4h7w5_k6r3s2_stride2x3_pad1:2,0:1_dil1x2_g2",
    "f64_n1c3h6w6_k3r3s3_stride2x2_pad1:1,1:1_g3_nhwc",
    "f32_n2c2h5w4_k3r1s1_stride3x2",
    "f32_n1c2h4w4_k2r3s3_pad3:4,2:5",
    "max_f32_n2c3h7w8_r3s3_stride2x2_pad1:1,1:1_ceil",
    "max_f64_n1c2h7w7_r2s3_stride1x2_pad0:1,1:0_dil2x1_nhwc",
    "avg_f32_n1c3h7w8_r3s3_stride2x2_pad1:1,1:1_ceil",
    "avg_f32_n1c3h7w8_r3s3_stride2x2_pad1:1,1:1_ceil_nopad",
    "avg_f64_n2c2h5w5_r2s2_stride3x3_div3_nhwc",
]


@pytest.mark.parametrize("text", ODD)
def test_the_reference_agrees_with_the_definition(text):
    problem = fastconv.parse_problem(text)
    for direction in presets.directions_of(problem):
        (outcome,) = measure.Case(problem, direction, [candidates.Algorithm("naive")]).measure(0.0, least_rounds=2)
        assert outcome.status == "timed", (direction, outcome)


def test_doubled_contents_multiply_the_result_by_what_is_said():
    for text in ODD:
        problem = fastconv.parse_problem(text)
        for direction in presets.directions_of(problem):
            operands = data.Operands(problem, direction)
            before = operands.expected()
            factor = operands.double()
            assert factor in (2.0, 4.0)
            for was, now in zip(before, operands.expected(), strict=True):
                scaled = was if was.dtype == np.int64 else factor * was
                np.testing.assert_allclose(now, scaled, rtol=1e-12, atol=1e-12)


def test_contents_change_in_place():
    operands = data.Operands(CONV, "forward")
    place, before = operands.input.ctypes.data, operands.input.copy()
    operands.change(np.random.default_rng(0))
    assert operands.input.ctypes.data == place
    assert not np.array_equal(operands.input, before)
    np.testing.assert_array_equal(np.sort(operands.input, axis=None), np.sort(before, axis=None))


# -- What must be noticed ---------------------------------------------------------------------------


class Planted:
    """A candidate with a fault of ours: naive's call, with `spoil` applied to each result."""

    def __init__(self, name, spoil=lambda result, calls: result, ready=lambda calls: True, warm_up=lambda: None):
        self.name, self.spoil, self.is_ready, self.warm_up = name, spoil, ready, warm_up
        self.calls = 0
        self.seen = []  # (address, contents of the weight) at each call

    def prepare(self, problem, direction, operands):
        good = candidates.fastconv_call(problem, direction, operands, "naive")

        def call():
            self.calls += 1
            if operands.weight is not None:
                self.seen.append((operands.weight.ctypes.data, operands.weight.tobytes()))
            return self.spoil(good(), self.calls)

        return Prepared(self.name, call, 1e-6, ready=lambda: self.is_ready(self.calls), warm_up=self.warm_up)


def one_element(result, calls):
    spoiled = result.copy()
    spoiled[0, 0, 0, 0] += 0.01
    return spoiled


def a_nan(result, calls):
    spoiled = result.copy()
    spoiled[0, -1, -1, -1] = np.nan
    return spoiled


def raises(result, calls):
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize(
    ("spoil", "status", "reason"),
    [
        (one_element, "wrong", "its error"),
        (a_nan, "wrong", "1 of 108 values are not finite"),
        (lambda result, calls: result[:, :, 1:], "wrong", "shape"),
        (raises, "failed", "a bug"),
    ],
)
def test_a_wrong_result_is_refused_before_it_is_timed(spoil, status, reason):
    planted = Planted("planted", spoil)
    good = Planted("good")
    outcomes = measure.Case(CONV, "forward", [planted, good]).measure(0.0, least_rounds=3)
    assert outcomes[0].status == status
    assert reason in outcomes[0].reason
    assert outcomes[0].samples == []
    assert planted.calls == 1, "one call, for verification, and none to be timed"
    assert outcomes[1].status == "timed", "one candidate's fault is not another's"
    assert len(outcomes[1].samples) == 3


def test_a_result_that_goes_wrong_later_is_refused_after_timing():
    planted = Planted("planted", lambda result, calls: one_element(result, calls) if calls > 2 else result)
    (outcome,) = measure.Case(CONV, "forward", [planted]).measure(0.0, least_rounds=3)
    assert outcome.status == "wrong"
    assert outcome.reason.startswith("after timing")
    assert outcome.samples == []


@pytest.mark.parametrize("direction", ["forward", "backward_input", "backward_weight"])
def test_remembering_by_identity_is_noticed(direction):
    remembered = {}
    planted = Planted("planted", lambda result, calls: remembered.setdefault("result", result))
    (outcome,) = measure.Case(CONV, direction, [planted]).measure(0.0, least_rounds=2)
    assert outcome.status == "wrong"
    assert outcome.reason.startswith("after timing")


def test_a_wrong_index_is_noticed():
    want = (np.zeros((1, 1, 2, 2)), np.arange(4).reshape(1, 1, 2, 2))
    with pytest.raises(measure.Wrong, match="1 of 4 indices differ"):
        measure.verify((want[0], want[1] ^ (want[1] == 3)), want, 1e-6)


def test_compiling_stays_out_of_timed_rounds():
    compiles_once = Planted("once", ready=lambda calls: calls > 0)
    always = Planted("always", ready=lambda calls: False)
    once, never = measure.Case(CONV, "forward", [compiles_once, always]).measure(0.0, least_rounds=2)
    assert once.compiled
    assert once.status == "timed"
    assert once.first_call > 0
    assert never.status == "failed"
    assert "would compile" in never.reason
    assert always.calls == 1


def test_what_the_first_call_did_not_compile_is_compiled_before_timing():
    warm = []
    planted = Planted("planted", ready=lambda calls: bool(warm), warm_up=lambda: warm.append(True))
    (outcome,) = measure.Case(CONV, "backward_weight", [planted]).measure(0.0, least_rounds=2)
    assert outcome.status == "timed"
    assert warm == [True]


def test_contents_differ_between_rounds_and_stay_in_place():
    planted = Planted("planted")
    measure.Case(CONV, "forward", [planted]).measure(0.0, least_rounds=6)
    assert len({address for address, _ in planted.seen}) == 1
    assert len({contents for _, contents in planted.seen}) >= 6


def order(seed):
    names = [Planted(name) for name in ("a", "b", "c")]
    case = measure.Case(fastconv.parse_problem("f32_c1h2w2_k1r1s1"), "forward", names, seed)
    case.measure(0.0, least_rounds=12)
    return case.order


def test_candidates_take_turns_in_random_but_seeded_order():
    taken = order(1)
    rounds = [[name for number, name in taken if number == which] for which in range(1, 13)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    assert len({tuple(names) for names in rounds}) > 2
    assert order(1) == taken
    assert order(2) != taken


def test_a_sample_lasts_long_enough_for_the_clock():
    calls = measure.calibrate(lambda: None, least=1e-3)
    assert measure.sample(lambda: None, calls)[0] * calls > 2e-4


def test_naive_takes_part_up_to_its_limit():
    naive = candidates.Algorithm("naive")
    assert naive.prepare(CONV, "forward", data.Operands(CONV, "forward")).name == "naive"
    large = fastconv.parse_problem("f32_c16h32w32_k16r3s3")
    with pytest.raises(candidates.Refused, match="not timed"):
        naive.prepare(large, "forward", data.Operands(large, "forward"))


def test_an_algorithm_of_the_other_family_has_no_row():
    task = run.Task(1, fastconv.parse_problem("max_c1h4w4_r2s2"), "forward")
    names = [candidate.name for candidate in run._of_family(task.problem, candidates.find((), ()))]
    assert names == [entry.name for entry in fastconv.algorithms("pool")]


# -- Records ----------------------------------------------------------------------------------------


def test_lines_are_strict_json(tmp_path):
    path = tmp_path / "run.jsonl"
    with records.writing(path) as writer:
        writer.write("run", schema=records.SCHEMA, value=float("nan"), array=np.float32(0.5), many=(1, float("inf")))
    (line,) = path.read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "kind": "run", "schema": records.SCHEMA, "value": None, "array": 0.5, "many": [1, None],
    }  # fmt: skip


def test_each_line_is_on_its_way_when_write_returns(tmp_path):
    path = tmp_path / "run.jsonl"
    with records.writing(path) as writer:
        writer.write("run", schema=records.SCHEMA)
        assert path.read_text().endswith("\n")


HEAD = json.dumps({"kind": "run", "schema": records.SCHEMA})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin"),
        ('{"kind":"row"}\n', "does not begin"),
        ('{"kind":"run","schema":0}\n', "schema 0"),
        (HEAD + '\n{"kind":"ro\n' + '{"kind":"end"}\n', "line 2"),
        (HEAD + '\n{"kind":"row","median":NaN}\n', "line 2"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, text, message):
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        records.read(path)


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text(HEAD + '\n{"kind":"row","name":"a"}\n{"kind":"row","na')
    read = records.read(path)
    assert [row["name"] for row in read.rows] == ["a"]
    assert read.end is None


def test_a_killed_run_keeps_what_it_had(tmp_path):
    path = tmp_path / "run.jsonl"
    command = [sys.executable, "-m", "bench", "run", "--preset", "tiny", "--seconds", "60", "--algorithms", "naive"]
    command += ["--out", str(path)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().count('"row"') >= 3):
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    read = records.read(path)
    assert len(read.rows) >= 3
    assert read.end is None
    assert verdict.noise(read, frames.frame(read)).noisy, "the page says that the run was cut short"


# -- Presets and bars -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", presets.names())
def test_presets_are_sound(name):
    preset = presets.load(name)
    problems = preset.problems()
    assert len(problems) == len(set(problems)) > 0
    rows = [
        {"problem": str(task.problem), "direction": task.direction, "threads": task.threads,
         "family": getattr(task.problem, "kind", "conv")}
        for task in run.tasks(preset)
    ]  # fmt: skip
    for bar in preset.bars:
        assert any(bars.selected(bar.select or {}, row) for row in rows), f"{bar.name} is about no row at all"


def test_quick_sweeps_what_it_should():
    names = {sweep.name for sweep in presets.load("quick").sweeps}
    for family in ("conv", "max", "avg"):
        assert {f"{family}-{parameter}" for parameter in ("kernel", "stride", "padding", "channels")} <= names


@pytest.mark.parametrize("network", presets.networks())
def test_layers_of_real_networks_are_problems(network):
    for layer in presets.layers(network, batch=8):
        assert fastconv.parse_problem(layer.problem).batch == 8


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"secnds": 1}, "secnds"),
        ({"directions": ["sideways"]}, "sideways"),
        ({"bars": [{"name": "x", "candidate": "a", "measure": "speed", "geometric_mean": 1, "worst": 1}]}, "measure"),
        ({"bars": [{"name": "x", "candidate": "a", "measure": "ratio", "geometric_mean": 1, "worst": 1}]}, "against"),
        ({"bars": [{"name": "x", "candidate": "a", "measure": "time", "geometric_mean": 1, "worst": 1}]}, "micro"),
        ({"problems": ["nonsense"]}, "nonsense"),
    ],
)
def test_a_mistake_in_a_preset_is_named(table, message):
    with pytest.raises(ValueError, match=message):
        presets.read("mistaken", table)


def a_run(*rows, **limits):
    """A run of rows (problem, direction, threads, name, samples or a reason)."""
    found = []
    for problem, direction, threads, name, samples in rows:
        parsed = fastconv.parse_problem(problem)
        timed = not isinstance(samples, str)
        found.append({
            "family": getattr(parsed, "kind", "conv"), "problem": problem, "direction": direction, "threads": threads,
            "name": name, "status": "timed" if timed else "refused", "reason": None if timed else samples,
            "samples": samples if timed else [], "median": float(np.median(samples)) if timed else None,
            "macs": parsed.macs, "bytes": parsed.bytes,
        })  # fmt: skip
    measured = [
        {"threads": 1, "threads_float32": 10.0, "copy_memory": 10.0, "level": "v3", "float32": {"v3": 10.0},
         "float64": {"v3": 5.0}},
        {"threads": 2, "threads_float32": 20.0, "copy_memory": 12.0, "level": "v3", "float32": {"v3": 10.0},
         "float64": {"v3": 5.0}},
    ]  # fmt: skip
    return records.Run({"schema": records.SCHEMA}, measured, found)


A, B = "f32_n1c8h8w8_k8r3s3", "f32_n1c16h8w8_k8r3s3"


def bar(measure="ratio", mean=1.0, worst=0.9, against=("peer",), **select):
    return presets.Bar("a bar", "ours", measure, mean, worst, against if measure == "ratio" else (), select)


def judged(wanted, *rows):
    (found,) = bars.judge([wanted], a_run(*rows))
    return found


def test_a_bar_is_reached_and_missed():
    rows = [(A, "forward", 1, "ours", [1.0, 1.0]), (A, "forward", 1, "peer", [2.0, 2.0]),
            (B, "forward", 1, "ours", [2.0, 2.0]), (B, "forward", 1, "peer", [1.0, 1.0])]  # fmt: skip
    found = judged(bar(mean=1.0, worst=0.5), *rows)
    assert found.mean == pytest.approx(1.0)
    assert found.worst == (f"{B} forward x1", 0.5)
    assert found.reached
    assert not judged(bar(mean=1.1, worst=0.5), *rows).reached
    assert not judged(bar(mean=1.0, worst=0.6), *rows).reached
    assert "MISSED" in bars.table([judged(bar(worst=0.6), *rows)])


def test_the_fastest_peer_counts():
    rows = [(A, "forward", 1, "ours", [1.0]), (A, "forward", 1, "peer", [3.0]), (A, "forward", 1, "fast", [0.5])]
    assert judged(bar(against=("peer", "fast")), *rows).mean == 0.5
    assert judged(bar(against=("peer",)), *rows).mean == pytest.approx(3.0)


def test_a_refused_row_counts_as_0():
    rows = [(A, "forward", 1, "ours", "no"), (A, "forward", 1, "peer", [2.0]),
            (B, "forward", 1, "ours", [1.0]), (B, "forward", 1, "peer", [9.0])]  # fmt: skip
    found = judged(bar(), *rows)
    assert found.mean == 0.0
    assert not found.reached


def test_rows_that_the_peer_does_in_no_time_are_judged_apart():
    rows = [(A, "forward", 1, "ours", [1.0]), (A, "forward", 1, "peer", [2.0]),
            (B, "forward", 1, "ours", [1e-4]), (B, "forward", 1, "peer", [6e-5])]  # fmt: skip
    found = judged(bar(mean=2.0, worst=2.0), *rows)
    assert list(found.apart.values()) == [pytest.approx(0.6)]
    assert found.mean == 2.0
    assert found.reached
    rows[-1] = (B, "forward", 1, "peer", [4e-5])
    assert not judged(bar(mean=2.0, worst=2.0), *rows).reached
    assert "Apart" in bars.table([found])


def test_a_bar_without_rows_or_peers_is_not_reached():
    assert not judged(bar()).reached
    assert "no rows" in bars.table([judged(bar())])
    rows = [(A, "forward", 1, "ours", [1.0]), (A, "forward", 1, "peer", "not installed")]
    found = judged(bar(), *rows)
    assert found.missing
    assert not found.reached


def test_shares_of_the_peak_and_of_a_copy():
    problem = fastconv.parse_problem(A)
    seconds = 2 * problem.macs / 10e9  # at the peak of one thread
    assert judged(bar("peak"), (A, "forward", 1, "ours", [seconds])).mean == pytest.approx(1.0)
    assert judged(bar("peak"), (A, "forward", 2, "ours", [seconds])).mean == pytest.approx(0.5)
    double = A.replace("f32", "f64")
    assert judged(bar("peak"), (double, "forward", 1, "ours", [seconds])).mean == pytest.approx(2.0)
    pool = "max_f32_n1c8h8w8_r2s2_stride2x2"
    seconds = fastconv.parse_problem(pool).bytes / 10e9
    assert judged(bar("copy"), (pool, "forward", 1, "ours", [seconds])).mean == pytest.approx(1.0)


def test_scaling_is_a_share_of_what_the_limits_scale():
    rows = [(A, "forward", 1, "ours", [1.0]), (A, "forward", 2, "ours", [0.5])]
    assert judged(bar("scaling"), *rows).mean == pytest.approx(1.0)
    pool = "max_f32_n1c8h8w8_r2s2_stride2x2"
    rows = [(pool, "forward", 1, "ours", [1.2]), (pool, "forward", 2, "ours", [1.0])]
    assert judged(bar("scaling"), *rows).mean == pytest.approx(1.0), "memory is shared by the threads"


def test_a_time_is_judged_by_what_it_is_allowed():
    allowed = presets.Bar("a call", "ours", "time", 1.0, 1.0, microseconds=12.0)
    assert judged(allowed, (A, "forward", 1, "ours", [10e-6, 10e-6])).mean == pytest.approx(1.2)
    assert not judged(allowed, (A, "forward", 1, "ours", [13e-6, 13e-6])).reached


def test_bars_select_rows():
    row = {"problem": A, "direction": "forward", "threads": 1, "family": "conv"}
    depthwise = {**row, "problem": "f32_n1c8h8w8_k8r3s3_g8"}
    assert bars.selected({"kind": "dense", "least_channels": 8, "least_flops": 1}, row)
    assert not bars.selected({"kind": "depthwise"}, row)
    assert bars.selected({"kind": "depthwise"}, depthwise)
    assert not bars.selected({"least_channels": 9}, row)
    assert not bars.selected({"least_flops": 1e12}, row)
    assert not bars.selected({"most_flops": 1}, row)
    assert not bars.selected({"directions": ["backward_input"]}, row)
    assert not bars.selected({"dtype": "float64"}, row)
    with pytest.raises(ValueError, match="colour"):
        bars.selected({"colour": 1}, row)


def test_a_case_beyond_the_time_is_a_row_with_its_reason(tmp_path):
    preset = presets.read("late", {"problems": [A], "seconds": 0.0, "algorithms": ["naive"], "threads": [1]})
    read = records.read(run.execute(preset, tmp_path / "run.jsonl", "test", store_limits=False))
    assert [row["status"] for row in read.rows] == ["timed", "refused", "refused"]
    assert len(read.rows[0]["samples"]) == 3
    assert {row["reason"] for row in read.rows[1:]} == {"not timed: the preset's time was used up"}


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
    assert {row["status"] for row in records.read(path).rows} == {"timed"}
    assert shell.main(["report", str(path), "--out", str(out)]) == 0
    check_page(out.read_text(), [entry.name for entry in fastconv.algorithms("conv") if entry.available])


def check_page(text, names):
    page = Page(text)
    assert outside(page) == []
    assert not re.search(r"https?:|@import|url\((?!#)", text), "nothing on the page points outside of it"
    assert "script" not in page.tags
    assert page.tags.count("svg") == 3 + 3 + 2 + 2, "a plot per sweep and direction, and two of VGG-16"
    assert page.tags.count("img") == 1 + len(names), "the photograph, and an edge map for each algorithm"
    assert text.count("equal to the bit") >= len(names)
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


# -- pytest-benchmark, and other libraries ----------------------------------------------------------


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


@pytest.mark.peers
@pytest.mark.parametrize(
    "text", [*ODD, "f32_n2c8h9w9_k8r3s3_pad1:1,1:1", "f32_n1c16h5w5_k120r5s5", "max_c4h9w9_r3s3_pad1:1,1:1"]
)
def test_torch_takes_part_with_right_results(text):
    pytest.importorskip("torch")
    problem = fastconv.parse_problem(text)
    asymmetric = any(low != high for low, high in problem.pads)
    for direction in presets.directions_of(problem):
        case = measure.Case(problem, direction, candidates.find(("naive",), ("torch", "torch_channels_last")))
        ours, nchw, last = case.measure(0.0, least_rounds=3)
        assert ours.status == "timed"
        assert nchw.status == ("refused" if asymmetric or problem.channels_last else "timed"), nchw
        assert last.status == ("refused" if asymmetric else "timed"), last


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
    from fastconv.conv import compiled, correlation, depthwise, dots

    problem, direction = task.problem, Direction(task.direction)
    if depthwise.takes(problem, direction):
        taken = kernels.DEPTHWISE_DOTS if direction is Direction.BACKWARD_WEIGHT else kernels.GATHER
    elif direction is Direction.BACKWARD_WEIGHT:
        taken = kernels.DOTS if dots.takes(problem, compiled.vector_bytes()) else kernels.GRADIENT
    else:
        schedule = correlation.correlation(problem, direction, compiled.vector_bytes())
        taken = kernels.LINES if schedule.fields["narrow"] else kernels.TILES
    assert kernels.kernel_of(problem, task.direction) == taken
