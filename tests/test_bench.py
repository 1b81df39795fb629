"""The harness measures: what it must notice, what it must not do, and what it keeps."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandas", reason="the harness needs the bench extra")
pytest.importorskip("matplotlib", reason="the harness needs the bench extra")

sys.path.append(str(Path(__file__).parent.parent))  # the harness is not installed; an installed fastconv comes first

import fastconv
from bench import candidates, data, measure, presets, records, run, statistics
from bench.candidates import Prepared
from bench.report import frames, verdict

ROOT = Path(__file__).parent.parent
CONV = fastconv.parse_problem("f32_n1c2h6w6_k3r3s3_pad1:1,1:1")
pytestmark = pytest.mark.usefixtures("own_cache")


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
