"""Who the harness times beside the algorithms: other libraries, and weights that are prepared."""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandas", reason="the harness needs the bench extra")

sys.path.append(str(Path(__file__).parent.parent))  # the harness is not installed; an installed fastconv comes first

import fastconv
from bench import candidates, data, measure, peers, presets
from bench.candidates import Prepared, Refused, Taken
from bench.peers import models

CONV = fastconv.parse_problem("f32_n1c2h6w6_k3r3s3_pad1:1,1:1")
MODELS = ("onnxruntime", "openvino", "ncnn")


def installed(name):
    """The peer, where its library is."""
    for module in (name,) if name == "ncnn" else (name, "onnx"):
        pytest.importorskip(module, reason=f"{module}: in the extra all-peers, which make test-all does not need")
    return peers.find(name)


# -- Models whose weight is a constant ---------------------------------------------------------------


@pytest.mark.peers
@pytest.mark.parametrize(
    "text",
    [
        "f32_n1c16h9w9_k24r3s3_pad1:1,1:1",
        "f32_n3c8h7w7_k16r3s3_pad1:1,1:1",
        "f32_n2c16h5w6_k8r1s1",
        "f32_n2c4h7w5_k6r3s2_stride2x3_pad1:2,0:1_dil1x2_g2",
        "f32_n2c8h6w6_k8r3s3_stride2x2_pad1:1,1:1_g8",
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_models_take_part_with_right_results(name, text):
    (outcome,) = measure.Case(fastconv.parse_problem(text), "forward", [installed(name)]).measure(0.0, least_rounds=3)
    assert outcome.status == "timed", outcome
    assert len(outcome.samples) == 3
    assert outcome.algorithm is None
    assert not outcome.admitted


@pytest.mark.peers
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_models_get_our_threads_and_compute_in_float32(name, threads):
    peer, weight = installed(name), np.ones(CONV.weight_shape, np.float32)
    fastconv.set_num_threads(threads)
    if name == "onnxruntime":
        from bench.peers.onnxruntime import _session

        options = _session(models.onnx_model(CONV, weight)).get_session_options()
        assert options.intra_op_num_threads == threads
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    elif name == "openvino":
        compiled = peer._compiled(models.onnx_model(CONV, weight))
        assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
        assert compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    else:
        from bench.peers.ncnn import _Net

        options = _Net(CONV, weight, peer._allocators)._net.opt
        assert options.num_threads == threads
        assert options.openmp_blocktime == 0
        assert options.use_winograd_convolution
        assert not any(getattr(options, entry) for entry in dir(options) if entry.startswith(("use_fp16", "use_bf16")))


@pytest.mark.parametrize(
    ("text", "direction", "reason"),
    [
        (str(CONV), "backward_weight", "forward only"),
        ("max_c1h4w4_r2s2", "forward", "only conv2d"),
        ("f32_n1c2h6w6_k3r3s3_nhwc", "forward", "NCHW only"),
        ("f64_n1c2h6w6_k3r3s3", "forward", "float32 only"),
    ],
)
def test_what_a_model_cannot_express_is_refused(text, direction, reason):
    with pytest.raises(Refused, match=f"a library .*{reason}|{reason}.* a library"):
        models.convolution("a library", fastconv.parse_problem(text), direction)
    assert models.convolution("a library", CONV, "forward") is CONV


@pytest.mark.parametrize(("name", "library"), [("torch", "torch"), *((name, name) for name in MODELS)])
def test_a_peer_that_is_not_installed_says_so(name, library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=rf"the peer {name} is not installed \(.*\): see the extras"):
        peers.find(name)


# -- Weights that are prepared -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [str(CONV), "f64_n2c4h7w5_k6r3s2_stride2x3_pad1:2,0:1_dil1x2_g2", "f32_n1c8h9w9_k8r3s3_nhwc"]
)
def test_a_prepared_weight_is_timed_with_the_algorithm_it_took(text):
    problem = fastconv.parse_problem(text)
    case = measure.Case(problem, "forward", candidates.find(("auto", "prepared"), ()))
    for outcome in case.measure(0.0, least_rounds=3):
        assert outcome.status == "timed", outcome
        assert outcome.admitted
        assert outcome.algorithm in candidates.registered("conv")
    with pytest.raises(Refused, match="only conv2d, forward"):
        candidates.HeldWeight().prepare(problem, "backward_input", data.Operands(problem, "backward_input"))


def test_a_weight_that_was_prepared_once_for_all_rounds_is_noticed(monkeypatch):
    refresh = candidates.Rebuilt.refresh
    monkeypatch.setattr(candidates.Rebuilt, "refresh", lambda model: None if model._call else refresh(model))
    (outcome,) = measure.Case(CONV, "forward", candidates.find(("prepared",), ())).measure(0.0, least_rounds=2)
    assert outcome.status == "wrong"
    assert outcome.reason.startswith("after timing")


class Counted:
    """naive's call, counted; perhaps said to be built anew by `refresh`."""

    def __init__(self, name, rebuilt):
        self.name, self.rebuilt, self.log = name, rebuilt, []

    def prepare(self, problem, direction, operands):
        good = candidates.fastconv_call(problem, direction, operands, "naive")

        def call():
            self.log.append("call")
            return good()

        return Prepared(self.name, call, 1e-6, refresh=partial(self.log.append, "refresh"), rebuilt=self.rebuilt)


@pytest.mark.parametrize("rebuilt", [False, True])
def test_where_a_model_is_built_anew_everybody_makes_a_call_before_the_sample(rebuilt):
    ours, model = Counted("ours", False), Counted("model", rebuilt)
    case = measure.Case(CONV, "forward", [ours, model])
    for candidate in (ours, model):
        candidate.log.clear()
    case.measure(0.0, least_rounds=3)
    for candidate in (ours, model):
        calls = case.outcomes[candidate.name].calls + rebuilt
        assert candidate.log == ["refresh", *["call"] * calls] * 3


def test_what_auto_may_take_is_asked_when_everything_is_compiled(monkeypatch):
    answers = {"cython_tiled": True, "naive": False}
    monkeypatch.setattr(candidates, "_taken", lambda problem, direction, name: Taken(name, answers.get(name, False)))
    case = measure.Case(CONV, "forward", candidates.find(("cython_tiled", "naive"), ()))
    answers["naive"] = True
    assert [(entry.algorithm, entry.admitted) for entry in case.measure(0.0, least_rounds=2)] == [
        ("cython_tiled", True),
        ("naive", True),
    ]


def test_an_error_above_the_tolerance_is_not_what_auto_may_take():
    problem = fastconv.parse_problem("f32_n1c16h12w12_k16r3s3_pad1:1,1:1")
    with fastconv.use(tolerance=0):
        case = measure.Case(problem, "forward", candidates.find(("cython_tiled", "cython_winograd_f4"), ()))
        exact, transform = case.measure(0.0, least_rounds=2)
    assert (exact.status, transform.status) == ("timed", "timed")
    assert exact.admitted
    assert not transform.admitted


def test_the_layers_of_the_planner_are_what_its_bars_are_about():
    problems = presets.load("planner").problems()
    assert {problem.batch for problem in problems} == {1, 8}
    assert all(problem.kernel == (3, 3) and problem.stride == (1, 1) for problem in problems)
    assert all(isinstance(problem, fastconv.ConvProblem) for problem in problems), "pools of 3x3 are not among them"
    assert fastconv.parse_problem("f32_n8c512h14w14_k512r3s3_pad1:1,1:1") in problems
