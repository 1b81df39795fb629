"""A fifth algorithm takes one file and one line, and everything picks it up by itself."""

import json
import re

import pytest

from tests.copies import add_installed_extensions, make_copy, run_in_copy

#: Sums of shifted products in NumPy: right, and unlike every other algorithm.
TOY = '''"""A toy: one shifted product of the whole image for each tap of the kernel."""

from dataclasses import replace

import numpy as np

from fastconv.conv import naive


def taps(problem, input):
    (top, bottom), (left, right) = problem.pads
    padded = np.pad(input, ((0, 0), (0, 0), (top, bottom), (left, right)))
    P, Q = problem.out_size
    for r in range(problem.kernel[0]):
        for s in range(problem.kernel[1]):
            h, w = r * problem.dilation[0], s * problem.dilation[1]
            rows = slice(h, h + (P - 1) * problem.stride[0] + 1, problem.stride[0])
            columns = slice(w, w + (Q - 1) * problem.stride[1] + 1, problem.stride[1])
            yield r, s, padded[:, :, rows, columns]


def refusal(problem, direction):
    return "a toy has one group, NCHW, and two axes" if problem.groups > 1 or problem.channels_last else None


def forward(problem, input, weight, output, epilogue, scratch, threads):
    output[...] = 0
    for r, s, shifted in taps(problem, input):
        output += np.einsum("nchw,kc->nkhw", shifted, weight[:, :, r, s])
    epilogue.apply(output, problem.channels_last)


ALGORITHMS = (replace(naive.ALGORITHMS[0], name="toy", refusal=refusal, forward=forward, cost=lambda *_: 1e-9),)
'''


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    copy = make_copy(tmp_path_factory.mktemp("extended") / "project")
    add_installed_extensions(copy)
    (copy / "fastconv" / "conv" / "toy.py").write_text(TOY)
    registry = copy / "fastconv" / "conv" / "__init__.py"
    text = registry.read_text()
    changed = text.replace('    "naive",\n', '    "toy",\n    "naive",\n')
    assert len(changed.splitlines()) == len(text.splitlines()) + 1, "one line registers an algorithm"
    registry.write_text(changed)
    return copy


def python(copy, code):
    done = run_in_copy(copy, ["-c", code], timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_copy_is_the_one_that_runs(extended):
    assert python(extended, "import fastconv; print(fastconv.__file__)").strip().startswith(str(extended))


def test_it_is_listed_and_can_be_called(extended):
    code = (
        "import numpy as np, fastconv\n"
        "print([entry.name for entry in fastconv.algorithms()])\n"
        "print(fastconv.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), algorithm='toy').tolist())\n"
        "print(fastconv.plan_conv2d((1, 1, 9, 9), (1, 1, 3, 3)).algorithm)\n"
    )
    names, numbers, chosen = python(extended, code).splitlines()
    assert "'toy', 'naive'" in names
    assert numbers == "[[[[4.0, 4.0], [4.0, 4.0]]]]"
    assert chosen == "toy", "auto picks it by its cost"


def test_explain_shows_it_and_its_refusal(extended):
    shown = python(extended, "import fastconv; print(fastconv.explain('f32_n1c3h8w8_k4r3s3'))")
    assert re.search(r"^-> +toy .*chosen", shown, re.M)
    shown = python(extended, "import fastconv; print(fastconv.explain('f32_n1c3h8w8_k3r3s3_g3'))")
    assert re.search(r"toy .*a toy has one group", shown)


def test_the_suite_tests_it(extended):
    """A slice of the conformance suite, and what the account of skips says about a refusal nobody expects."""
    done = run_in_copy(
        extended,
        [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/test_conformance_conv.py",
            "-k",
            "toy and (three or stride_2_nhwc)",
        ],
    )
    assert re.search(r"\d+ passed", done.stdout), done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert re.search(r"NOT EXPECTED: toy refuses f32_n2c3h9w9_.*_nhwc forward", done.stdout)
    assert done.returncode == 1, "a skip that is not in expected_skips.py fails the run"


def test_the_bench_measures_it(extended, tmp_path):
    out = tmp_path / "rows.jsonl"
    command = ["-m", "bench", "run", "--preset", "tiny", "--problems", "f32_n1c2h8w8_k2r3s3", "--directions", "forward"]
    done = run_in_copy(extended, [*command, "--seconds", "0.5", "--out", str(out)])
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["status"] for row in rows if row.get("name") == "toy"] == ["timed"], done.stdout
