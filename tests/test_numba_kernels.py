"""What only numba_direct promises: compiled when asked and once per dtype, and Numba's threads never bite."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

pytest.importorskip("numba")

from fastconv import conv, jit, pool
from fastconv.algorithm import Direction
from fastconv.problem import ConvProblem, PoolProblem
from tests.checks import assert_same_bits, assert_same_numbers, run_conv, run_pool_forward
from tests.problems import CONV_PROBLEMS, conv_operands

CONV = next(entry for entry in conv.ALGORITHMS if entry.name == "numba_direct")
POOL = next(entry for entry in pool.ALGORITHMS if entry.name == "numba_direct")
NAIVE = conv.ALGORITHMS[-1]

#: What every subprocess begins with: one problem, and what im2col_gemm makes of its three directions.
PRELUDE = """
    import os, sys, threading, time
    import numpy as np
    import fastconv
    def integers(seed, *shape):
        return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)
    x, w, y = integers(1, 2, 8, 13, 17), integers(2, 12, 8, 3, 3), integers(3, 2, 12, 13, 17)
    def all_directions(algorithm):
        out = fastconv.conv2d(x, w, padding=1, algorithm=algorithm)
        return (out, *fastconv.conv2d_backward(y, x, w, padding=1, algorithm=algorithm))
    def pools(algorithm):
        out, where = fastconv.max_pool2d(x, 3, 2, 1, return_indices=True, algorithm=algorithm)
        mean = fastconv.avg_pool2d(x, 3, 2, 1, algorithm=algorithm)
        return (out, where, mean, fastconv.max_pool2d_backward(out, x, 3, 2, 1, algorithm=algorithm),
                fastconv.avg_pool2d_backward(mean, x, 3, 2, 1, algorithm=algorithm))
    expected, expected_pools = all_directions("im2col_gemm"), pools("naive")
    def right():
        return all(np.array_equal(a, b) for a, b in zip(
            (*all_directions("numba_direct"), *pools("numba_direct")[:3]), (*expected, *expected_pools[:3])))
"""


def python(code, *, timeout=120, **environment):
    """Run code in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(code)],
        capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.split()


# -- Kernels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 4, 7])
@pytest.mark.parametrize("terms", [1, 4, 6])
@pytest.mark.parametrize("length", [1, 16, 37, 512])
def test_contract_adds_weighted_runs(rows, terms, length):
    from fastconv.kernels.numba.contraction import LEAD, contract

    random = np.random.default_rng(rows + 10 * terms + 100 * length)
    source, weight = (random.integers(-3, 4, n).astype(np.float32) for n in (length + 50, 200))
    source_at, weight_at = random.integers(0, 50, terms), random.integers(0, 40, terms)
    sums = random.integers(-3, 4, rows * LEAD).astype(np.float32)
    expected = sums.reshape(rows, LEAD).copy()
    for i in range(rows):
        for j in range(terms):
            run = source[source_at[j] : source_at[j] + length]
            expected[i, :length] += weight[7 + i * 20 + weight_at[j]] * run
    frozen = weight.copy()
    frozen.flags.writeable = False
    _compiled_for_test(contract)(sums, rows, source, source_at, frozen, weight_at, terms, 7, 20, length)
    assert_same_numbers(sums.reshape(rows, LEAD), expected)


@pytest.mark.parametrize("step", [1, 2, 3, 2**62])
def test_inside_is_the_range_within_the_size(step):
    from fastconv.kernels.numba.runs import inside

    ask = _compiled_for_test(inside)
    for start in range(-7, 8):
        for count in range(4 if step < 2**62 else 2):
            for size in range(1, 6):
                within = [x for x in range(count) if 0 <= start + x * step < size]
                first, last = ask(start, step, count, size)
                assert list(range(first, last)) == within, (start, count, size)


def _compiled_for_test(inner):
    """Inner functions have no wrapper that Python could call; compile one of those."""
    from numba import njit

    return njit(inner.py_func, error_model="numpy")


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_an_infinite_weight_reaches_only_what_exists(bad, stride):
    """Nothing outside grad_output exists: no zero of a padded plane may meet the weight."""
    problem = ConvProblem("float32", 1, 2, (7, 9), 3, (3, 2), stride, ((1, 1), (0, 1)))
    random = np.random.default_rng(1)
    weight = random.integers(-3, 4, problem.weight_shape).astype(np.float32)
    weight[1, 0, 2, 0] = bad
    grad_output = random.integers(1, 4, problem.output_shape).astype(np.float32)
    results = [run_conv(entry, problem, Direction.BACKWARD_INPUT, grad_output, weight) for entry in (CONV, NAIVE)]
    assert np.isfinite(results[1]).any()
    assert not np.isfinite(results[1]).all()
    assert_same_numbers(*results)


# -- Compilation ------------------------------------------------------------------------------------


def test_asking_compiles_and_imports_nothing():
    assert python("""
        for family in ("conv", "pool"):
            print(*(entry.available for entry in fastconv.algorithms(family) if entry.name == "numba_direct"))
        table = str(fastconv.explain("f32_n1c3h8w8_k4r3s3"))
        print("its first call would compile" in table, "numba" in sys.modules)
    """) == ["True", "True", "True", "False"]  # fmt: skip


def test_ready_after_the_first_call_and_auto_learns_of_it():
    """Per dtype and direction; a plan made before is made again."""
    assert python("""
        from fastconv.algorithm import Direction
        from fastconv.planner import candidates, plan
        def ready(text, direction=Direction.FORWARD):
            (entry,) = [c for c in candidates(fastconv.parse_problem(text), direction)
                        if c.algorithm.name == "numba_direct"]
            return entry.reason is None
        f32, f64 = "f32_n1c3h8w8_k4r3s3", "f64_n1c3h8w8_k4r3s3"
        before = plan(fastconv.parse_problem(f32), Direction.FORWARD)
        assert before is plan(fastconv.parse_problem(f32), Direction.FORWARD)
        print(ready(f32))
        fastconv.conv2d(x, w, algorithm="numba_direct")
        print(ready(f32), ready(f64), ready(f32, Direction.BACKWARD_WEIGHT))
        print(before is plan(fastconv.parse_problem(f32), Direction.FORWARD))
        print(ready(f32, Direction.BACKWARD_INPUT))  # has kernels of its own
        y = fastconv.conv2d(x, w, algorithm="numba_direct")
        fastconv.conv2d_backward(y, x, w, output_mask=(True, False, False), algorithm="numba_direct")
        compiled = fastconv.jit.generation()
        w[0, 0, 0, 0] = np.inf  # the exact kernel for such weights was compiled too
        fastconv.conv2d_backward(y, x, w, output_mask=(True, False, False), algorithm="numba_direct")
        print(ready(f32, Direction.BACKWARD_INPUT), fastconv.jit.generation() == compiled)
    """) == ["False", "True", "False", "False", "False", "False", "True", "True"]  # fmt: skip


def test_every_kernel_is_compiled_once_per_dtype():
    from fastconv.kernels.numba import correlate, gradient

    for problem in CONV_PROBLEMS.values():
        if problem.batch == 0 or problem.macs > 20_000:
            continue
        data = conv_operands(problem)
        for threads in (1, 2):
            run_conv(CONV, problem, Direction.FORWARD, data["input"], data["weight"], threads=threads)
            run_conv(
                CONV, problem, Direction.BACKWARD_WEIGHT, data["grad_output"], data["input"], with_grad_bias=True,
                threads=threads, generous=True,
            )  # fmt: skip
    kernels = (
        correlate.correlate, correlate.correlate_parallel, gradient.gradient, gradient.gradient_parallel,
        gradient.sum_bias, gradient.sum_bias_parallel,
    )  # fmt: skip
    for kernel in kernels:
        dtypes = [str(signature) for signature in kernel.signatures]
        assert sum("float32" in text for text in dtypes) <= 1, kernel.__name__
        assert len(dtypes) <= 2, kernel.__name__


@pytest.mark.slow
@pytest.mark.serial
def test_compile_time_is_logged_and_bounded():
    """Seconds on one quiet core; a bound that only a blunder passes, since the clock is shared."""
    lines = python("""
        import logging
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
        logging.getLogger("numba").setLevel(logging.WARNING)
        right()
    """)  # fmt: skip
    seconds = {}
    for at in [i for i, word in enumerate(lines) if word == "compiled"]:
        seconds[lines[at + 1]] = float(lines[at + 5])
    print(seconds)
    assert {"correlate", "gradient", "sum_bias", "max_forward", "avg_backward"} <= set(seconds)
    assert max(seconds.values()) < 15
    assert sum(seconds.values()) < 60


def test_disabled_jit_is_the_reason_and_the_rest_is_right():
    out = python(
        """
        for family in ("conv", "pool"):
            (entry,) = [entry for entry in fastconv.algorithms(family) if entry.name == "numba_direct"]
            print(entry.available, "NUMBA_DISABLE_JIT" in entry.reason)
        try:
            fastconv.conv2d(x, w, algorithm="numba_direct")
        except fastconv.UnsupportedProblem as error:
            print("NUMBA_DISABLE_JIT" in str(error))
        print(np.array_equal(fastconv.conv2d(x, w, padding=1), expected[0]), "numba" in sys.modules)
        """,
        NUMBA_DISABLE_JIT="1",
    )
    assert out == ["False", "True", "False", "True", "True", "True", "False"]


def test_missing_numba_is_the_reason(monkeypatch):
    monkeypatch.setattr(jit, "_installed", lambda: False)
    assert "not installed" in CONV.unavailable()
    assert "not installed" in POOL.unavailable()


# -- Threads ----------------------------------------------------------------------------------------


def test_the_same_bits_for_every_number_of_threads():
    """Real data, where another order of sums would show."""
    assert python(
        """
        random = np.random.default_rng(5)
        x, w, y = (random.standard_normal(shape).astype(np.float32)
                   for shape in ((3, 20, 31, 33), (70, 20, 3, 3), (3, 70, 31, 33)))
        seen = set()
        for threads in (1, 2, 3, 16):
            with fastconv.use(threads=threads):
                arrays = (*all_directions("numba_direct"), *pools("numba_direct"))
                seen.add(b"".join(array.tobytes() for array in arrays))
        import numba
        print(len(seen), numba.config.NUMBA_NUM_THREADS)
        """,
        NUMBA_NUM_THREADS="16",
    ) == ["1", "16"]  # fmt: skip


@pytest.mark.parametrize("layer", [pytest.param("omp", marks=pytest.mark.slow), "workqueue"])
def test_many_python_threads_at_once(layer):
    """Numba's workqueue aborts the process when two threads enter it; the lock in threads.py prevents that."""
    out = python(
        """
        fastconv.set_num_threads(2)
        right()
        wrong = []
        def work():
            for _ in range(5):
                if not right():
                    wrong.append(1)
        workers = [threading.Thread(target=work) for _ in range(32)]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
        import numba
        print(len(wrong), numba.threading_layer())
        """,
        NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2",
    )  # fmt: skip
    assert out == ["0", layer]


@pytest.mark.slow
def test_many_python_threads_compile_at_once():
    assert python("""
        results = []
        workers = [threading.Thread(target=lambda: results.append(right())) for _ in range(8)]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
        print(results.count(True))
    """) == ["8"]  # fmt: skip


def test_a_forked_child_computes_after_its_parent_did():
    """And compiles, if it must: here the pools are compiled in the child alone."""
    assert python(
        """
        fastconv.set_num_threads(2)
        assert all(np.array_equal(a, b) for a, b in zip(all_directions("numba_direct"), expected))
        child = os.fork()
        if child == 0:
            os._exit(0 if right() else 3)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        NUMBA_NUM_THREADS="2",
    ) == ["0"]  # fmt: skip


@pytest.mark.parametrize("what", ["conv2d(x, w, padding=1, algorithm='numba_direct')",
                                  pytest.param("conv2d_backward(y, x, w, padding=1, algorithm='numba_direct')",
                                               marks=pytest.mark.slow)])  # fmt: skip
def test_interruption_within_two_seconds(what):
    code = f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        fastconv.{what}
        x, w, y = (np.ones(shape, np.float32) for shape in ((64, 64, 128, 128), (512, 64, 3, 3), (64, 512, 128, 128)))
        print("begun", flush=True)
        try:
            while True:
                fastconv.{what}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        assert process.stdout.readline() == "interrupted\n"
        assert time.perf_counter() - start < 2
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()


# -- Work items -------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", list(Direction))
def test_a_small_grant_gives_the_same_bits(direction):
    problem = ConvProblem("float32", 2, 9, (20, 23), 11, (3, 3), (2, 1), ((1, 1), (2, 0)))
    random = np.random.default_rng(3)
    shapes = {
        Direction.FORWARD: (problem.input_shape, problem.weight_shape),
        Direction.BACKWARD_INPUT: (problem.output_shape, problem.weight_shape),
        Direction.BACKWARD_WEIGHT: (problem.output_shape, problem.input_shape),
    }[direction]
    operands = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    tight, ample = (run_conv(CONV, problem, direction, *operands, threads=3, generous=g) for g in (False, True))
    assert_same_bits(tight, ample)


def test_items_depend_on_the_shape_alone_and_there_are_enough():
    from fastconv.conv.tiles import correlation_layout

    small = ConvProblem("float32", 1, 512, (7, 7), 512, (3, 3), pads=((1, 1), (1, 1)))
    layout = correlation_layout(small, Direction.FORWARD)
    assert layout.row_tiles * layout.col_tiles * layout.blocks >= 16


@pytest.mark.parametrize("kind", ["max", "avg"])
def test_a_pool_of_one_long_row(kind):
    """Longer than the block of outputs under way at once."""
    problem = PoolProblem(kind, "float32", 1, 1, (1, 5000), (1, 3), (1, 2), ((0, 0), (1, 1)))
    data = np.random.default_rng(1).integers(-9, 10, problem.input_shape).astype(np.float32)
    output, _ = run_pool_forward(POOL, problem, data, threads=2, generous=True)
    padded = np.pad(data[0, 0, 0], 1, constant_values=-np.inf if kind == "max" else 0)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 3)[::2]
    expected = windows.max(-1) if kind == "max" else (windows.sum(-1, dtype=np.float64) / 3).astype(np.float32)
    assert_same_numbers(output[0, 0, 0], expected)
