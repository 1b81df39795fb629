"""Presets of the harness, and the bars that judge a run."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("pandas", reason="the harness needs the bench extra")
pytest.importorskip("matplotlib", reason="the harness needs the bench extra")

sys.path.append(str(Path(__file__).parent.parent))  # the harness is not installed; an installed fastconv comes first

import fastconv
from bench import bars, presets, records, run
from tests.made_runs import A, B, a_run

pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_layers_are_chosen_by_family_kernel_and_stride():
    every = presets.select_layers(["googlenet"])
    threes = presets.select_layers(["googlenet"], family="conv", kernel=3, stride=1)
    assert 0 < len(threes) < len(every)
    found = [fastconv.parse_problem(layer.problem) for layer in threes]
    assert {(type(problem).__name__, problem.kernel, problem.stride) for problem in found} == {
        ("ConvProblem", (3, 3), (1, 1))
    }
    pools = presets.select_layers(["googlenet"], batch=[2], family="max", kernel=3)
    assert {fastconv.parse_problem(layer.problem).stride for layer in pools} == {(1, 1), (2, 2)}


@pytest.mark.parametrize("network", presets.networks())
def test_layers_of_real_networks_are_problems(network):
    for layer in presets.layers(network, batch=8):
        assert fastconv.parse_problem(layer.problem).batch == 8


ONE = {"geometric_mean": 1, "worst": 1}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"secnds": 1}, "secnds"),
        ({"directions": ["sideways"]}, "sideways"),
        ({"bars": [{"name": "x", "candidate": "a", "measure": "speed", **ONE}]}, "measure"),
        ({"bars": [{"name": "x", "candidate": "a", "measure": "ratio", **ONE}]}, "against"),
        ({"bars": [{"name": "x", "candidate": "a", "measure": "time", **ONE}]}, "micro"),
        ({"bars": [{"name": "x", "candidate": "a", "measure": "peak", **ONE, "share": 95}]}, "share"),
        ({"problems": ["nonsense"]}, "nonsense"),
    ],
)
def test_a_mistake_in_a_preset_is_named(table, message):
    with pytest.raises(ValueError, match=message):
        presets.read("mistaken", table)


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


def test_regret_is_against_the_fastest_that_auto_may_take():
    rows = [(A, "forward", 1, "ours", [2.0, 4.0]), (A, "forward", 1, "slow", [6.0, 6.0]),
            (A, "forward", 1, "fast", [1.0, 2.0]), (A, "forward", 1, "inexact", [0.1, 0.1])]  # fmt: skip
    run = a_run(*rows)
    for row in run.rows:
        row |= {"algorithm": "fast" if row["name"] == "ours" else row["name"], "admitted": row["name"] != "inexact"}
    (found,) = bars.judge([bar("regret", mean=0.9)], run)
    assert found.mean == 0.5, "paired by round, beside what is admitted and timed under its own name"
    assert not found.reached
    run.rows[2]["admitted"] = False
    (found,) = bars.judge([bar("regret")], run)
    assert found.mean == pytest.approx(2.25)
    (found,) = bars.judge([bar("regret")], a_run(*rows))
    assert found.missing, "nothing is known of who might have been taken"


def test_the_worst_row_of_a_share_of_them():
    problems = [A.replace("n1", f"n{batch}") for batch in range(1, 21)]
    rows = [(problem, "forward", 1, "ours", [1.0]) for problem in problems]
    rows += [(problem, "forward", 1, "peer", [10.0 + i]) for i, problem in enumerate(problems)]
    found = judged(bar(worst=11.0), *rows)
    assert found.worst[1] == 10.0
    assert not found.reached
    found.bar = replace(found.bar, share=0.95)
    assert found.worst[1] == 11.0, "one of twenty is spared"
    assert found.reached
    assert found.mean < 21, "the mean is over all"
    found.bar = replace(found.bar, share=0.96)
    assert found.worst[1] == 10.0


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
    large = {**row, "problem": "f32_n4c8h8w6_k24r3s3"}
    assert bars.selected({"batch": [1, 4], "least_out_channels": 24, "least_map": 6}, large)
    assert not bars.selected({"batch": [1]}, large)
    assert not bars.selected({"least_out_channels": 25}, large)
    assert not bars.selected({"least_map": 7}, large), "the shorter side counts"
    pool = {**row, "problem": "max_n1c8h8w8_r2s2", "family": "max"}
    assert bars.selected({"least_out_channels": 8}, pool)
    assert not bars.selected({"least_out_channels": 9}, pool)
    with pytest.raises(ValueError, match="colour"):
        bars.selected({"colour": 1}, row)


def test_a_case_beyond_the_time_is_a_row_with_its_reason(tmp_path):
    preset = presets.read("late", {"problems": [A], "seconds": 0.0, "algorithms": ["naive"], "threads": [1]})
    read = records.read(run.execute(preset, tmp_path / "run.jsonl", "test", store_limits=False))
    assert [row["status"] for row in read.rows] == ["timed", "refused", "refused"]
    assert len(read.rows[0]["samples"]) == 3
    assert {row["reason"] for row in read.rows[1:]} == {"not timed: the preset's time was used up"}


def test_what_a_call_moves_counts_the_indices_of_a_maximum():
    conv, average = fastconv.parse_problem(A), fastconv.parse_problem("avg_f32_n2c3h8w8_r2s2_stride2x2")
    maximum = fastconv.parse_problem("max_f32_n2c3h8w8_r2s2_stride2x2")
    whole = 4 * 2 * 3 * (8 * 8 + 4 * 4)
    assert presets.moved_bytes(conv, "backward_weight") == conv.bytes
    assert presets.moved_bytes(average, "backward_input") == presets.moved_bytes(maximum, "forward") == whole
    for direction in ("forward_indices", "backward_input"):
        assert presets.moved_bytes(maximum, direction) == whole + 8 * 2 * 3 * 4 * 4
