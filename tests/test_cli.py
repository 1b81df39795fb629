"""The shell's door: what is asked is answered, what cannot be answered is said on one line."""

import subprocess
import sys

import pytest

import fastconv
from fastconv import cli
from fastconv.machine import forget


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTCONV_CACHE_DIR", str(tmp_path))
    forget()
    yield
    monkeypatch.undo()
    forget()


def test_info_lists_every_algorithm_and_measures_nothing(capsys):
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for family in ("conv", "pool"):
        for entry in fastconv.algorithms(family):
            assert f"{family} {entry.name}: " in text
    assert "fastconv info --measure" in text


@pytest.mark.serial
def test_info_measures_when_told_to_and_remembers(capsys):
    assert cli.main(["info", "--measure"]) == 0
    assert "GFLOP/s, one thread" in capsys.readouterr().out
    assert cli.main(["info"]) == 0
    assert "GFLOP/s, one thread" in capsys.readouterr().out


def test_explain_prints_what_the_function_returns(capsys):
    text = "f32_n1c3h8w8_k4r3s3"
    assert cli.main(["explain", text, "--direction", "backward_weight"]) == 0
    assert capsys.readouterr().out.strip() == str(fastconv.explain(text, direction="backward_weight"))


def test_explain_takes_a_thread_count(capsys):
    assert cli.main(["explain", "max_c3h8w8_r2s2", "--threads", "3"]) == 0
    assert "3 threads" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", "nonsense"],
        ["explain", "f32_n1c3h8w8_k4r9s9"],
        ["explain", "max_c3h8w8_r2s2", "--direction", "backward_weight"],
        ["explain", "max_c3h8w8_r2s2", "--threads", "0"],
        ["table", "vgg17"],
        ["table", "vgg16", "--convention", "none"],
    ],
)
def test_what_has_no_answer_is_one_line_and_code_2(capsys, arguments):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("fastconv: ")
    assert captured.err.count("\n") == 1


def test_table(capsys):
    assert cli.main(["table", "vgg16", "--convention", "cs231n"]) == 0
    assert "params: 7*7*512*4096 = 102,760,448" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["explain"], ["explain", "x", "--direction", "sideways"]])
def test_a_wrong_command_line_ends_with_usage(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert "usage: fastconv" in capsys.readouterr().err


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "fastconv", "--version"], capture_output=True, text=True)
    assert done.stdout.strip() == f"fastconv {fastconv.__version__}"
