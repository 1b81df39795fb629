"""What the hunt (tests/hunt.py) found, by name: each problem was once computed wrongly, or not at all."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

import fastconv
from fastconv.planner import REGISTRY
from fastconv.pool import cython_tiled as pool
from tests import hunt, hunt_properties
from tests.checks import DIRECT, assert_same_numbers
from tests.hunt import main
from tests.hunt_problems import hunt_one
from tests.problems import generator

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


# -- The hunt itself --------------------------------------------------------------------------------


@pytest.fixture
def _nothing_to_compile(monkeypatch):
    for family, algorithms in REGISTRY.items():
        monkeypatch.setitem(REGISTRY, family, tuple(entry for entry in algorithms if "numba" not in entry.name))


@pytest.mark.usefixtures("_nothing_to_compile")
def test_the_parts_of_the_hunt_share_the_time(monkeypatch, capsys):
    """Each takes a step in any time, says how many checks that was, and a step is determined by its seed."""
    assert main(["--seconds", "3", "--seed", "7"]) == 0, capsys.readouterr().out
    lines = capsys.readouterr().out.splitlines()
    for part in hunt.PARTS:
        (line,) = [line for line in lines if line.startswith(f"{part}: ")]
        assert re.search(r"[1-9]\d* steps in \d+ s, 0 finds; .+ \d", line), line
    assert re.match(r"[1-9]\d* checks, 0 finds", lines[-1])
    accounts = [hunt.Account() for _ in range(2)]
    for account in accounts:
        for seed in range(5):
            hunt.take_step("pools", seed, account)
    assert accounts[0].counts == accounts[1].counts


def planted(monkeypatch, name, fault):
    right = getattr(fastconv, name)
    monkeypatch.setattr(fastconv, name, lambda *arguments, **named: fault(right(*arguments, **named)))


@pytest.mark.usefixtures("_nothing_to_compile")
@pytest.mark.parametrize(
    ("part", "name"),
    [("pad", "pad_backward"), ("padding", "pad_backward"), ("matrices", "convolve2d"), ("others", "upsample"),
     ("conv", "conv3d"), ("transposed", "conv_transpose1d_backward"), ("pools", "avg_pool3d")],
)  # fmt: skip
def test_every_part_of_the_hunt_notices_a_planted_fault(part, name, monkeypatch, capsys):
    """The largest element is too large by one: found within some steps, and printed with the line that repeats it."""

    def wrong(result):
        first = (result[0] if isinstance(result, tuple) else result).copy()
        if first.size:
            first.flat[int(first.argmax())] += 1
        return (first, *result[1:]) if isinstance(result, tuple) else first

    planted(monkeypatch, name, wrong)
    account, seed = hunt.Account(), 0
    while not account.finds and seed < 300:
        hunt.take_step(part, seed, account)
        seed += 1
    assert account.finds
    assert f"again: python tests/hunt.py --part {part} --step {seed - 1}\n" in capsys.readouterr().out


def test_properties_of_the_hunt_notice_a_planted_fault(monkeypatch, capsys):
    only = [entry for entry in hunt_properties.PROPERTIES if "output_size" in entry[0].__name__]
    monkeypatch.setattr(hunt_properties, "PROPERTIES", only)
    planted(monkeypatch, "output_size", lambda size: size + (size > 9))
    account = hunt.Account()
    hunt.take_step("properties", 1, account)
    assert account.finds == 1
    assert "again: python tests/hunt.py --part properties --step 1" in capsys.readouterr().out


@pytest.mark.parametrize("shapes", [((0, 3, 5, 5), (4, 3, 5, 5)), ((0, 3, 1, 1), (4, 3, 1, 1)), ((0, 2, 4), (3, 2, 4))])
@pytest.mark.parametrize("algorithm", [*(entry.name for entry in DIRECT), "auto"])
def test_no_images_for_a_kernel_of_their_size(shapes, algorithm):
    """As a linear layer its pixels are the images, and there was none."""
    input, weight = np.zeros(shapes[0], np.float32), np.ones(shapes[1], np.float32)
    axes = input.ndim - 2
    forward, backward = getattr(fastconv, f"conv{axes}d"), getattr(fastconv, f"conv{axes}d_backward")
    output = forward(input, weight, algorithm=algorithm)
    assert output.shape == (0, len(weight), *[1] * axes)
    grads = backward(output, input, weight, algorithm=algorithm)
    assert [grad.shape for grad in grads] == [input.shape, weight.shape, (len(weight),)]
    assert not grads[1].any()


@pytest.mark.parametrize("data_format", ["NCHW", "NHWC"])
def test_averages_of_equal_elements_do_not_drift(data_format):
    """One chain of 4,096 additions rounded alike: 4e-5 off with the channels last, 3e-6 without."""
    x = np.full((1, 64, 64, 64), 0.1, np.float32)
    average = fastconv.avg_pool2d(x, 64, data_format=data_format, algorithm="cython_tiled")
    assert np.abs(average / np.float32(0.1) - 1).max() < 5e-6


@pytest.mark.parametrize(
    ("text", "items"),
    [("max_f32_n1c64h256w256_r3s3_stride1x1_pad1:1,1:1_nhwc", 4), ("avg_f32_n1c64h500w500_r17s17_stride1x1_nhwc", 64)],
)
def test_gradients_of_channels_last_pools_have_items_for_threads_and_signals(text, items):
    """One item was 64 channels of an image: one thread for all, and 2 s until Ctrl-C was seen."""
    if reason := pool.unavailable():
        pytest.skip(f"cython_tiled is unavailable: {reason}")
    problem = fastconv.parse_problem(text)
    assert pool._schedule(problem, 64).backward_items >= items


@pytest.mark.parametrize("algorithm", [*(entry.name for entry in DIRECT), "auto"])
def test_the_bias_of_a_transposed_convolution_of_single_pixels(algorithm):
    """Computed as a linear layer, whose channels are pixels: the bias was read as if it had as many entries."""
    x, w = (
        generator("pixels", shape).integers(-4, 5, shape).astype(np.float32) for shape in ((3, 6, 1, 1), (6, 4, 2, 3))
    )
    bias = np.arange(8, dtype=np.float32)
    plain = fastconv.conv_transpose2d(x, w, groups=2, algorithm="naive")
    found = fastconv.conv_transpose2d(x, w, bias, groups=2, algorithm=algorithm)
    assert_same_numbers(found, plain + bias.reshape(-1, 1, 1))
