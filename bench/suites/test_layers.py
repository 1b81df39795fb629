"""The layers of real networks under pytest-benchmark: one group per problem and direction, one row per algorithm.

Each result is verified before it is timed. Every round runs on other contents of the same arrays, and nothing is
compiled in it: the first call was the verified one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastconv
from bench import candidates, data, measure, presets

#: What `make bench` runs: the shapes that differ most. `make bench-full` runs every layer there is.
SELECTED = {
    "lenet5": ("c1", "s2", "c3", "c5"),
    "alexnet": ("conv1", "conv2", "conv2_g2", "pool1"),
    "vgg16": ("conv1_1", "conv3_1", "conv4_1", "conv5", "pool3", "pool5"),
    "googlenet": ("conv2_1x1", "inc3a_3x3", "inc3a_5x5", "inc3a_pool"),
    "resnet50": ("conv1", "maxpool", "res2_1x1b", "res3a_3x3", "res4a_shortcut", "res5b_3x3", "avgpool"),
    "mobilenet_v1": ("dw2", "dw3", "pw4", "dw8"),
    "pools": ("inc3_avg_35a", "avg_112", "spp_5x5"),
}

#: Seconds of timed rounds for each row, in `make bench` and in `make bench-full`.
SECONDS, SECONDS_IN_FULL = 0.5, 3.0


def cases() -> list[Any]:
    """Every (problem, direction, algorithm) once, those of SELECTED first; the others are marked slow."""
    layers = [layer for network in presets.networks() for layer in presets.layers(network)]
    layers.sort(key=lambda layer: layer.name not in SELECTED.get(layer.network, ()))
    found: dict[tuple[str, str, str], Any] = {}
    for layer in layers:
        problem = fastconv.parse_problem(layer.problem)
        family = "conv" if isinstance(problem, fastconv.ConvProblem) else "pool"
        quick = layer.name in SELECTED.get(layer.network, ())
        for direction in presets.directions_of(problem):
            for name in candidates.registered(family):
                key = (layer.problem, direction, name)
                marks = () if quick else pytest.mark.slow
                found.setdefault(key, pytest.param(*key, marks=marks, id="-".join(key)))
    return list(found.values())


@pytest.mark.parametrize(("text", "direction", "name"), cases())
def test_layer(
    benchmark: Any, request: pytest.FixtureRequest, limits: dict[str, float], threads: int, text: str, direction: str,
    name: str,
) -> None:  # fmt: skip
    """Verify, then time."""
    problem = fastconv.parse_problem(text)
    operands = data.Operands(problem, direction)
    try:
        prepared = candidates.Algorithm(name).prepare(problem, direction, operands)
    except candidates.Refused as reason:
        pytest.skip(str(reason))
    prepared.refresh()
    first_call, result = measure.sample(prepared.call, 1)
    allowed = candidates.allowance(prepared, problem, direction)
    error = measure.verify(prepared.results(result), operands.expected(), allowed)
    if not prepared.ready():
        prepared.warm_up()
    assert prepared.ready(), "a timed round would compile"

    rng = np.random.default_rng(1)
    seconds = SECONDS_IN_FULL if request.config.getoption("--all") else SECONDS
    once = measure.sample(prepared.call, 1)[0]
    rounds = min(max(math.ceil(seconds / once), 5), 300)
    benchmark.group = f"{text} {direction}"
    benchmark.pedantic(prepared.call, setup=lambda: operands.change(rng), rounds=rounds)

    median = benchmark.stats.stats.median
    convolves = isinstance(problem, fastconv.ConvProblem)
    rate = (2 * problem.macs if convolves else problem.bytes) / median / 1e9
    share = rate / limits["peak" if convolves else "copy"]
    benchmark.extra_info |= {
        "GFLOP/s" if convolves else "GB/s": round(rate, 3),
        "share of peak" if convolves else "share of copy speed": round(share, 4),
        "workspace bytes": prepared.workspace_bytes,
        "threads": threads,
        "first call seconds": round(first_call, 6),
        "error": error,
    }
