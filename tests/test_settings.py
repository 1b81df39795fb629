"""use, configure, plans, explanations: who computes, and why not the others."""

import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastconv
from fastconv import UnsupportedProblem, parse_problem, settings
from fastconv.algorithm import Direction
from fastconv.planner import REGISTRY, candidates, forget_plans, plan
from tests.checks import assert_same_numbers

CONV = [entry.name for entry in REGISTRY["conv"]]
POOL = [entry.name for entry in REGISTRY["pool"]]
PROBLEM = parse_problem("f32_n1c3h8w8_k4r3s3_pad1:1,1:1")
POOLING = parse_problem("max_f32_n1c3h8w8_r2s2")
FORWARD = Direction.FORWARD
X, W = np.ones((1, 3, 8, 8), np.float32), np.ones((4, 3, 3, 3), np.float32)


def chosen(problem=PROBLEM, algorithm=None):
    return plan(problem, FORWARD, algorithm).algorithm


def auto():
    """What is cheapest among the admissible."""
    admissible = [candidate for candidate in candidates(PROBLEM, FORWARD) if not candidate.reason]
    return min(admissible, key=lambda candidate: candidate.cost).algorithm.name


# -- Precedence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONV)
def test_an_argument_beats_use_beats_configure_beats_the_default(name):
    other = next(entry for entry in CONV if entry != name)
    assert chosen() == auto()
    fastconv.configure(algorithm=name)
    assert chosen() == name
    with fastconv.use(algorithm=other):
        assert chosen() == other
        assert chosen(algorithm=name) == name
        with fastconv.use(algorithm="auto"):
            assert chosen() == auto()
        assert chosen() == other
    assert chosen() == name
    assert chosen(algorithm="auto") == auto()


def test_settings_not_given_stay():
    fastconv.configure(workspace_limit=12345)
    fastconv.configure(tolerance=0.5, strict=True)
    with fastconv.use(tolerance=0.25) as using:
        assert (using.workspace_limit, using.tolerance, using.strict) == (12345, 0.25, True)
        with fastconv.use(strict=False):
            now = settings.current()
            assert (now.workspace_limit, now.tolerance, now.strict) == (12345, 0.25, False)
    assert settings.current().tolerance == 0.5


def test_use_ends_with_its_block_also_by_an_error():
    before = settings.current()
    with pytest.raises(KeyError), fastconv.use(algorithm="naive", threads=1):
        raise KeyError
    assert settings.current() == before


def test_use_decorates():
    @fastconv.use(algorithm="naive", threads=1)
    def inside():
        return chosen(), fastconv.get_num_threads()

    for _ in range(2):
        assert inside() == ("naive", 1)
    assert settings.current().preference("conv") == ()


def test_one_use_serves_many_times_and_inside_of_itself():
    """It holds no state: again, nested, by a recursive function, in several threads at once."""
    one = fastconv.use(threads=7)
    for _ in range(2):
        with one, fastconv.use(threads=2), one:
            assert fastconv.get_num_threads() == 7
            with fastconv.use(threads=3):
                assert fastconv.get_num_threads() == 3
    assert settings.current().threads is None

    @one
    def recursive(depth):
        assert fastconv.get_num_threads() == 7
        if depth:
            recursive(depth - 1)
        assert fastconv.get_num_threads() == 7

    recursive(3)
    barrier = threading.Barrier(4)

    def labour(_):
        with one:
            barrier.wait()
            inside = fastconv.get_num_threads()
            barrier.wait()
        return inside, settings.current().threads

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(labour, range(4))) == [(7, None)] * 4


def test_blocks_of_generators_may_end_in_another_order():
    def block(threads):
        with fastconv.use(threads=threads):
            yield

    first, second = block(3), block(5)
    next(first)
    next(second)
    first.close()
    assert fastconv.get_num_threads() == 5
    second.close()
    assert settings.current().threads is None
    with pytest.raises(RuntimeError, match="left more often than it was entered"):
        fastconv.use(threads=3).__exit__(None, None, None)


def test_use_refuses_to_decorate_what_runs_later():
    """The body of a coroutine or a generator would run after the settings are gone."""

    async def coroutine():
        pass

    async def stream():
        yield

    def generator():
        yield

    for later in (coroutine, stream, generator):
        with pytest.raises(TypeError, match="decorates plain functions"):
            fastconv.use(threads=1)(later)


def test_use_is_of_its_context_and_configure_of_the_process():
    seen = []

    def look():
        seen.append((settings.current().tolerance, settings.current().workspace_limit))

    fastconv.configure(workspace_limit=777)
    with fastconv.use(tolerance=0.125):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        contextvars.copy_context().run(look)
    assert seen == [(1e-5, 777), (0.125, 777)]


# -- Preferences ------------------------------------------------------------------------------------


def test_lists_and_dicts():
    with fastconv.use(algorithm=["naive", CONV[0]]):
        assert chosen() == "naive"
        assert chosen(POOLING) == "naive"
    with fastconv.use(algorithm={"conv": "naive"}):
        assert chosen() == "naive"
        assert settings.current().preference("pool") == ()
    with fastconv.use(algorithm={"pool": ("naive",), "conv": [CONV[0]]}):
        assert (chosen(), chosen(POOLING)) == (CONV[0], "naive")
    with fastconv.use(algorithm="im2col_gemm"):
        assert settings.current().preference("pool") == (), "a name of one family says nothing about the other"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"algorithm": "fft"}, ValueError, "unknown algorithm 'fft'; the names are auto, .*naive"),
        ({"algorithm": ["naive", "fft"]}, ValueError, "unknown algorithm 'fft'"),
        ({"algorithm": {"conv": "fft"}}, ValueError, "unknown conv algorithm 'fft'"),
        ({"algorithm": {"pool": "im2col_gemm"}}, ValueError, "unknown pool algorithm 'im2col_gemm'"),
        ({"algorithm": {"sort": "naive"}}, ValueError, "unknown family 'sort'; the families are conv, pool"),
        ({"algorithm": 3}, TypeError, "algorithm must be a name, a list"),
        ({"algorithm": [3]}, TypeError, "algorithm must be a name, a list"),
        ({"threads": 0}, ValueError, "threads must be an integer of at least 1, got 0"),
        ({"threads": -1}, ValueError, "threads must be an integer of at least 1, got -1"),
        ({"threads": 1.5}, ValueError, r"threads must be an integer of at least 1, got 1\.5"),
        ({"threads": True}, ValueError, "threads must be an integer of at least 1, got True"),
        ({"threads": "2"}, ValueError, "threads must be an integer of at least 1, got '2'"),
        ({"threads": 2**31}, ValueError, r"threads must be at most 2\*\*31 - 1"),
        ({"threads": 10**400}, ValueError, r"threads must be at most 2\*\*31 - 1"),
        ({"tolerance": 10**400}, ValueError, "tolerance must be finite"),
        ({"tolerance": -1e-9}, ValueError, "tolerance must be finite and at least 0, got -1e-09"),
        ({"tolerance": float("nan")}, ValueError, "tolerance must be finite and at least 0, got nan"),
        ({"tolerance": "1"}, TypeError, "tolerance must be a number, got '1'"),
        ({"tolerance": True}, TypeError, "tolerance must be a number, got True"),
        ({"workspace_limit": -1}, ValueError, "workspace_limit must be at least 0 bytes, got -1"),
        ({"workspace_limit": 1e6}, TypeError, r"workspace_limit must be an int of bytes, got 1000000\.0"),
        ({"strict": 1}, TypeError, "strict must be True or False, got 1"),
    ],
)
@pytest.mark.parametrize("function", [fastconv.use, fastconv.configure])
def test_wrong_settings_are_refused_at_once(function, arguments, error, message):
    before = settings.current()
    with pytest.raises(error, match=message):
        function(**arguments)
    assert settings.current() == before


def test_wrong_thread_counts():
    for wrong in (0, -1, 1.5, None, "2", True):
        with pytest.raises(ValueError, match="threads"):
            fastconv.set_num_threads(wrong)


def test_settings_are_keyword_only():
    with pytest.raises(TypeError):
        fastconv.use("naive")
    with pytest.raises(TypeError):
        fastconv.configure("naive")


# -- Algorithms that refuse, err, or want much memory ------------------------------------------------


@pytest.fixture
def registered(monkeypatch):
    """Register changed copies of naive, first in the registry."""
    from dataclasses import replace

    from fastconv import planner
    from fastconv.conv.naive import ALGORITHMS

    def register(**changes):
        toy = replace(ALGORITHMS[0], name="toy", **({"cost": lambda *_: 0.0} | changes))
        monkeypatch.setitem(planner.REGISTRY, "conv", (toy, *planner.REGISTRY["conv"]))
        monkeypatch.setitem(settings.known_names, "conv", ("toy", *settings.known_names["conv"]))
        forget_plans()
        return toy

    yield register
    forget_plans()


def test_a_refusal_is_an_error_that_says_why(registered):
    registered(refusal=lambda problem, direction: "it is shy")
    assert chosen() == auto() != "toy"
    with pytest.raises(UnsupportedProblem, match=f"toy cannot compute {PROBLEM} forward: it is shy"):
        chosen(algorithm="toy")
    with fastconv.use(algorithm="toy"):
        assert chosen() == auto(), "a preference gives way"
    with fastconv.use(algorithm=["toy", "naive"]):
        assert chosen() == "naive", "to the next one that can"
    with fastconv.use(algorithm="toy", strict=True), pytest.raises(UnsupportedProblem, match="it is shy"):
        fastconv.conv2d(X, W, padding=1)
    with fastconv.use(algorithm=["toy", "naive"], strict=True):
        assert chosen() == "naive"


def test_what_is_missing_is_listed_with_its_reason(registered):
    registered(unavailable=lambda: "there is no such machine")
    entry = fastconv.algorithms()[0]
    assert (entry.name, entry.available, entry.reason) == ("toy", False, "there is no such machine")
    with pytest.raises(UnsupportedProblem, match="there is no such machine"):
        fastconv.conv2d(X, W, algorithm="toy")
    assert "toy: there is no such machine" in fastconv.show_config()
    assert "there is no such machine" in str(fastconv.explain(PROBLEM))


def test_auto_keeps_to_the_tolerance(registered):
    registered(error=lambda problem, direction: 1e-3)
    assert chosen() != "toy"
    assert "expected error 1.0e-03 is above the tolerance 1.0e-05" in str(fastconv.explain(PROBLEM))
    assert chosen(algorithm="toy") == "toy", "a name is not bound by it"
    with fastconv.use(tolerance=2e-3):
        assert chosen() == "toy"
    with fastconv.use(algorithm="toy"):
        assert chosen() == "toy"


def test_zero_tolerance_admits_the_direct_ones():
    with fastconv.use(tolerance=0):
        assert chosen() == auto()


def test_auto_compiles_nothing(registered):
    registered(ready=lambda problem, direction: False)
    assert chosen() != "toy"
    assert "its first call would compile" in str(fastconv.explain(PROBLEM))
    assert chosen(algorithm="toy") == "toy"


def test_a_workspace_above_the_limit_is_a_memory_error_with_its_bytes(registered):
    registered(workspace_bytes=lambda problem, direction, threads: (5000, 9000))
    assert plan(PROBLEM, FORWARD).workspace_bytes == 9000
    with fastconv.use(workspace_limit=6000):
        assert (chosen(), plan(PROBLEM, FORWARD).workspace_bytes) == ("toy", 6000)
    with fastconv.use(workspace_limit=4999):
        assert chosen() != "toy"
        with pytest.raises(MemoryError, match=r"toy cannot .*: needs 5000 bytes of workspace, the limit is 4999"):
            fastconv.conv2d(X, W, algorithm="toy", padding=1)


def test_a_limit_that_nobody_keeps_is_a_memory_error(monkeypatch):
    from dataclasses import replace

    from fastconv import planner

    large = [replace(entry, workspace_bytes=lambda *_: (64, 64)) for entry in planner.REGISTRY["conv"]]
    monkeypatch.setitem(planner.REGISTRY, "conv", tuple(large))
    forget_plans()
    with fastconv.use(workspace_limit=63), pytest.raises(MemoryError, match="64 bytes of workspace, the limit is 63"):
        fastconv.conv2d(X, W)
    with fastconv.use(workspace_limit=63):
        assert fastconv.explain(PROBLEM).chosen is None
    forget_plans()


@pytest.mark.parametrize("limit", [0, 1, 4096, 100_000])
@pytest.mark.parametrize("name", CONV)
def test_every_algorithm_works_within_the_limit_or_says_its_bytes(name, limit):
    x, w = np.ones((2, 8, 20, 21), np.float32), np.ones((9, 8, 3, 3), np.float32)
    right = fastconv.conv2d(x, w, padding=1, algorithm="im2col_gemm")
    fastconv.empty_cache()
    with fastconv.use(workspace_limit=limit):
        try:
            assert_same_numbers(fastconv.conv2d(x, w, padding=1, algorithm=name), right)
        except MemoryError as error:
            assert f"the limit is {limit}" in str(error)  # noqa: PT017
    assert fastconv.memory_stats()["kept"] <= max(limit * 9 // 8, 8192)


# -- Plans and explanations -------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONV)
def test_a_plan_runs(name):
    x, w, b = (np.full(shape, 2, np.float32) for shape in ((1, 3, 8, 8), (4, 3, 3, 3), (4,)))
    dy = np.ones((1, 4, 8, 8), np.float32)
    with fastconv.use(algorithm=name):
        made = {
            direction: fastconv.plan_conv2d(x.shape, w.shape, padding=1, direction=direction)
            for direction in ("forward", "backward_input", "backward_weight")
        }
        dx, dw, _ = fastconv.conv2d_backward(dy, x, w, padding=1)
        y = fastconv.conv2d(x, w, b, padding=1)
    for settled in made.values():
        assert settled.algorithm == name
        assert settled.cost > 0
        assert 0 <= settled.error < 1e-5
        assert settled.workspace_bytes >= 0
    assert_same_numbers(made["forward"].run(x, w, bias=b), y)
    assert_same_numbers(made["backward_input"].run(dy, w), dx)
    assert_same_numbers(made["backward_weight"].run(dy, x), dw)
    assert_same_numbers(made["forward"].run(np.asfortranarray(x), w[::-1, ::-1], bias=b), y)


@pytest.mark.parametrize(
    ("arrays", "bias", "error", "message"),
    [
        ((X,), None, TypeError, "runs on two arrays, got 1"),
        ((X[:, :, 1:], W), None, ValueError, r"input must have the plan's shape \(1, 3, 8, 8\), got \(1, 3, 7, 8\)"),
        ((X, W.astype(float)), None, TypeError, "weight must be a float32 array, got float64"),
        ((X, W.tolist()), None, TypeError, "weight must be a float32 array, got list"),
        ((X, W), np.ones(3, np.float32), ValueError, r"bias must have the plan's shape \(4,\), got \(3,\)"),
        ((X, W), np.ones(4), TypeError, "bias must be a float32 array, got float64"),
    ],
)
def test_a_plan_refuses_other_arrays(arrays, bias, error, message):
    with pytest.raises(error, match=message):
        fastconv.plan_conv2d(X.shape, W.shape).run(*arrays, bias=bias)


def test_a_bias_belongs_to_forward():
    dy = np.ones((1, 4, 6, 6), np.float32)
    for direction, arrays in (("backward_input", (dy, W)), ("backward_weight", (dy, X))):
        with pytest.raises(ValueError, match=f"bias belongs to a forward plan, this one is {direction}"):
            fastconv.plan_conv2d(X.shape, W.shape, direction=direction).run(*arrays, bias=np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((3, 8, 8), W.shape), ValueError, "input_shape must be a shape of 4 ints"),
        ((X.shape, (4, 3, 3)), ValueError, "weight_shape must be a shape of 4 ints"),
        (((1, 3, 8.0, 8), W.shape), TypeError, r"input_shape must be an int, got 8\.0"),
        (((1, 2, 8, 8), W.shape), ValueError, "has 2 channels"),
    ],
)
def test_plans_refuse_wrong_shapes(arguments, error, message):
    with pytest.raises(error, match=message):
        fastconv.plan_conv2d(*arguments)
    with pytest.raises(error, match=message):
        fastconv.explain(*arguments)


def test_plans_refuse_wrong_words():
    with pytest.raises(ValueError, match="direction must be one of forward, backward_input, backward_weight, got 'up'"):
        fastconv.plan_conv2d(X.shape, W.shape, direction="up")
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got 'int32'"):
        fastconv.plan_conv2d(X.shape, W.shape, dtype="int32")
    for dtype in (None, "flaot32", 3):
        with pytest.raises(TypeError, match=f"dtype must be float32 or float64, got {dtype!r}"):
            fastconv.plan_conv2d(X.shape, W.shape, dtype=dtype)
    with pytest.raises(TypeError, match="weight_shape"):
        fastconv.explain(X.shape)
    with pytest.raises(ValueError, match="no weight"):
        fastconv.explain("max_c1h4w4_r2s2", direction="backward_weight")


@pytest.mark.parametrize("problem", [PROBLEM, str(PROBLEM), POOLING], ids=str)
def test_explain_takes_no_parameters_beside_a_problem(problem):
    """A problem has its own; others would be dropped without a word."""
    given = {"weight_shape": W.shape, "stride": 2, "padding": "same", "dilation": (1, 1), "groups": True, "dtype": "f8"}
    for name, value in given.items():
        with pytest.raises(TypeError, match=f"{name} belongs to an input shape"):
            fastconv.explain(problem, **{name: value})


@pytest.mark.parametrize("direction", ["forward", "backward_input", "backward_weight"])
def test_explain_lists_everybody_and_marks_the_choice(direction):
    explanation = fastconv.explain("f32_n2c8h14w14_k16r3s3_pad1:1,1:1", direction=direction)
    text = str(explanation)
    assert text == repr(explanation)
    head, titles, *rows, caveat = text.splitlines()
    assert head.startswith(f"f32_n2c8h14w14_k16r3s3_pad1:1,1:1 {direction}, ")
    assert titles.split() == ["algorithm", "time", "workspace", "error", "note"]
    assert [row.removeprefix("->").split()[0] for row in rows] == CONV
    assert "threads" in caveat
    marked = [row for row in rows if row.startswith("->")]
    assert len(marked) == 1
    assert explanation.chosen in marked[0]
    assert explanation.chosen == fastconv.plan_conv2d(
        (2, 8, 14, 14), (16, 8, 3, 3), padding=1, direction=direction
    ).algorithm  # fmt: skip


def test_explain_takes_every_form():
    text = "f32_n1c3h8w8_k4r3s3_pad1:1,1:1"
    answers = {
        str(fastconv.explain(text)),
        str(fastconv.explain(parse_problem(text))),
        str(fastconv.explain((1, 3, 8, 8), (4, 3, 3, 3), padding=1)),
    }
    assert len(answers) == 1
    for candidate in fastconv.explain("max_f32_n1c3h8w8_r2s2").candidates:
        assert candidate.algorithm.name in POOL


def test_algorithms():
    assert [entry.name for entry in fastconv.algorithms()] == CONV
    assert [entry.name for entry in fastconv.algorithms("pool")] == POOL
    assert all(entry.available and entry.reason is None for entry in fastconv.algorithms()), "nothing is missing here"
    assert all(entry.available for entry in fastconv.algorithms("pool"))
    assert "relu" in fastconv.algorithms()[0].fused_activations
    with pytest.raises(ValueError, match="unknown family 'fft'; the families are conv, pool"):
        fastconv.algorithms("fft")


@pytest.mark.parametrize("family", ["conv", "pool"])
def test_estimates_are_pure_and_positive(family):
    """A cost is a function of its arguments: seconds, more for more work, never more than a year."""
    small, large = {
        "conv": ("f32_n1c8h16w16_k8r3s3", "f32_n16c64h64w64_k64r3s3"),
        "pool": ("max_f32_n1c8h16w16_r2s2", "max_f32_n16c64h64w64_r2s2"),
    }[family]
    machine = fastconv.machine()
    for algorithm in REGISTRY[family]:
        for direction in Direction:
            if algorithm.backward_weight is None and direction is Direction.BACKWARD_WEIGHT:
                continue
            costs = [
                algorithm.cost(parse_problem(text), direction, threads, machine)
                for text in (small, large)
                for threads in (1, 2)
            ]
            assert all(0 < cost < 3e7 for cost in costs), algorithm.name
            assert costs[0] < costs[2]
            assert costs[0] == algorithm.cost(parse_problem(small), direction, 1, machine)


# -- Memory -----------------------------------------------------------------------------------------


def test_memory_is_given_back():
    fastconv.empty_cache()
    assert fastconv.memory_stats()["kept"] == 0
    fastconv.conv2d(np.ones((1, 8, 40, 40), np.float32), np.ones((8, 8, 3, 3), np.float32), algorithm="im2col_gemm")
    stats = fastconv.memory_stats()
    assert stats["in_use"] == 0
    assert 0 < stats["kept"] <= stats["peak"]
    fastconv.empty_cache()
    assert fastconv.memory_stats()["kept"] == 0


def test_threads_of_the_process():
    fastconv.set_num_threads(3)
    assert fastconv.get_num_threads() == 3
    with fastconv.use(threads=1):
        assert fastconv.get_num_threads() == 1
        assert plan(PROBLEM, FORWARD).threads == 1
    assert plan(PROBLEM, FORWARD).threads == 3


def test_setting_the_threads_limits_blas_too():
    import threadpoolctl

    def blas():
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}

    before = blas()
    try:
        fastconv.set_num_threads(1)
        assert blas() == {1}
    finally:
        fastconv.set_num_threads(max(before))
