"""What the hunt (tests/hunt.py) found, by name: each problem was once computed wrongly, or not at all."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import fastconv
from tests.hunt import hunt_one

FINDS = {
    "a stride of rows alone, where a row of the buffer has no gap": "f32_n2c8h9w6_k20r2s1_stride2x1",
    "a stride of rows alone on one column": "f64_n1c40h25w1_k8r5s3_stride2x2_pad0:0,2:2_dil5x2_g8",
    "no tap of the kernel reaches the input": "f64_n9c63h30w2_k3r1s1_stride1x4_pad2:0,2:2_dil1x3_g3",
    "taps that all fall between the rows of the input": "f64_n3c3h1w14_k9r5s7_stride11x1_pad10:14,0:0_dil3x2_g3",
}


@pytest.mark.parametrize("name", FINDS)
def test_find(name, capsys):
    """Every algorithm and direction again, with the least and the best scratch and several threads."""
    counts: Counter[str] = Counter()
    for seed in range(4):
        finds = hunt_one(fastconv.parse_problem(FINDS[name]), np.random.default_rng(seed), counts)
        assert finds == 0, capsys.readouterr().out
    assert sum(counts.values()) > 8


def test_the_hunt_reports_what_it_finds(monkeypatch, capsys):
    """A planted fault is counted, and printed with the line that repeats it."""
    from dataclasses import replace

    from fastconv import planner

    naive = planner.REGISTRY["conv"][-1]

    def wrong(problem, input, weight, output, *rest):
        naive.forward(problem, input, weight, output, *rest)
        output.flat[-1] += 1

    monkeypatch.setitem(planner.REGISTRY, "conv", (replace(naive, forward=wrong),))
    problem = fastconv.parse_problem("f32_n1c1h3w3_k1r2s2")
    assert hunt_one(problem, np.random.default_rng(0), Counter()) == 1
    assert f"--problem {problem} --algorithm naive" in capsys.readouterr().out
