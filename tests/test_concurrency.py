"""The same bits on every number of threads; many Python threads, forks, interrupts; and no file left behind."""

import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import fastconv
from bench.candidates import fastconv_call
from bench.presets import directions_of
from fastconv import parse_problem
from fastconv.algorithm import Direction
from fastconv.planner import REGISTRY
from tests.checks import assert_same_bits, run_conv, run_pool_backward, run_pool_forward
from tests.copies import ROOT
from tests.hunt_problems import random_problems
from tests.problems import generator

CONV = [algorithm for algorithm in REGISTRY["conv"] if algorithm.name != "im2col_gemm"]  # BLAS makes no such promise
POOL = REGISTRY["pool"]
THREADS = (1, 2, 3, 16)

CONV_TEXTS = (
    "n3c5h15w17_k7r3s3_pad1:1,1:1",
    "n1c19h14w33_k18r3s3_stride2x2_pad1:1,1:1",
    "n2c16h13w13_k16r3s3_pad1:1,1:1_g16",
    "n2c10h8w9_k14r2s3_stride1x2_pad2:0,0:3_dil3x2_g2",
    "n5c33h5w5_k17r1s1",
    "n2c9h12w11_k6r5s5_pad2:2,2:2_nhwc",
)
POOL_TEXTS = ("n3c5h15w17_r3s3_stride2x2_pad1:1,1:1", "n2c19h14w33_r2s2", "n1c33h9w9_r3s3_stride1x1_pad1:1,1:1_nhwc")


def normal(key, shape, dtype):
    return generator("threads", key, shape).standard_normal(shape).astype(dtype)


def small_for(algorithm, problem):
    """The same problem, thin enough for naive, of a kernel that a transform takes."""
    if getattr(algorithm, "transforms", False):  # for 3x3 of stride 1 alone
        return replace(problem, kernel=(3, 3), stride=(1, 1), dilation=(1, 1), pads=((1, 1), (2, 1)))
    thin = problem.macs > 20_000 and algorithm.name == "naive"
    if not thin or isinstance(problem, fastconv.PoolProblem):
        return problem
    return replace(problem, batch=1, in_channels=problem.groups, out_channels=problem.groups, in_size=(9, 10))


def every_result(algorithm, problem, threads, *, generous=True):
    """Bits of all directions on N(0, 1) data."""
    if isinstance(problem, fastconv.PoolProblem):
        x = normal("x", problem.input_shape, problem.dtype)
        dy = normal("dy", problem.output_shape, problem.dtype)
        maximum = problem.kind == "max"
        y, where = run_pool_forward(algorithm, problem, x, with_indices=maximum, threads=threads, generous=generous)
        source = {"input": x} if maximum else {}
        dx = run_pool_backward(algorithm, problem, dy, **source, threads=threads, generous=generous)
        return {"output": y, "grad_input": dx} | ({"indices": where} if maximum else {})
    x, w, dy, b = (
        normal(name, shape, problem.dtype)
        for name, shape in (
            ("x", problem.input_shape), ("w", problem.weight_shape), ("dy", problem.output_shape),
            ("b", (problem.out_channels,)),
        )
    )  # fmt: skip
    how = {"threads": threads, "generous": generous}
    grad_weight, grad_bias = run_conv(algorithm, problem, Direction.BACKWARD_WEIGHT, dy, x, with_grad_bias=True, **how)
    return {
        "output": run_conv(algorithm, problem, Direction.FORWARD, x, w, bias=b, **how),
        "grad_input": run_conv(algorithm, problem, Direction.BACKWARD_INPUT, dy, w, **how),
        "grad_weight": grad_weight,
        "grad_bias": grad_bias,
    }


def compare_threads(algorithm, text, counts=THREADS, dtypes=("float32", "float64")):
    for dtype in dtypes:
        problem = small_for(algorithm, replace(parse_problem(text), dtype=dtype))
        alone = every_result(algorithm, problem, 1)
        for threads in counts:
            for name, result in every_result(algorithm, problem, threads).items():
                assert_same_bits(result, alone[name], f"{name} of {problem} on {threads} threads")


@pytest.mark.parametrize("algorithm", CONV, ids=lambda algorithm: algorithm.name)
@pytest.mark.parametrize("text", CONV_TEXTS)
def test_the_same_bits_on_every_number_of_threads(algorithm, text):
    compare_threads(algorithm, text)


@pytest.mark.parametrize("algorithm", POOL, ids=lambda algorithm: algorithm.name)
@pytest.mark.parametrize("kind", ["max", "avg"])
@pytest.mark.parametrize("text", POOL_TEXTS)
def test_the_same_bits_of_pools(algorithm, kind, text):
    compare_threads(algorithm, f"{kind}_{text}")


def python(code, *, timeout=120, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, cwd=ROOT, timeout=timeout,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


MANY_THREADS = """
import sys
from fastconv.planner import REGISTRY
from tests.test_concurrency import CONV_TEXTS, POOL_TEXTS, compare_threads
for family, texts in (("conv", CONV_TEXTS[:3]), ("pool", ["max_" + POOL_TEXTS[0], "avg_" + POOL_TEXTS[1]])):
    for algorithm in REGISTRY[family]:
        if algorithm.name.startswith("numba"):
            for text in texts:
                compare_threads(algorithm, text, (2, 3, 16), ["float32"])
print("same")
"""


@pytest.mark.slow  # one shape of it is in test_numba_kernels.py
def test_numba_started_with_16_threads_gives_the_same_bits():
    assert python(MANY_THREADS, NUMBA_NUM_THREADS="16").strip() == "same"


def test_a_wrong_split_is_noticed():
    """The comparison fails for an algorithm whose result depends on its number of threads."""
    first = CONV[-1]

    def dependent(problem, input, weight, output, epilogue, scratch, threads):
        first.forward(problem, input, weight, output, epilogue, scratch, threads)
        output.reshape(-1)[-1] = np.nextafter(output.reshape(-1)[-1], np.inf if threads > 1 else -np.inf)

    with pytest.raises(AssertionError, match=r"output of .* on 2 threads: 1 of \d+ elements differ"):
        compare_threads(replace(first, forward=dependent), CONV_TEXTS[0])


# -- Many Python threads ----------------------------------------------------------------------------


def jobs():
    """(call, expected) of all algorithms, families and several shapes."""
    made = []
    for index, (c, k, size, groups) in enumerate(((3, 8, 20, 1), (8, 16, 14, 2), (16, 16, 9, 16), (33, 7, 7, 1))):
        x = generator("job", index).integers(-3, 4, (2, c, size, size + 3)).astype(np.float32)
        w = generator("filter", index).integers(-3, 4, (k, c // groups, 3, 3)).astype(np.float32)
        for entry in fastconv.algorithms():
            if entry.name == "naive":
                small_x, small_w = x[:1, : c // groups, :5, :5], w[:2]
                made.append((lambda x=small_x, w=small_w: fastconv.conv2d(x, w, algorithm="naive"),))
                continue
            call = {"padding": 1, "groups": groups, "algorithm": entry.name}
            made.append((lambda x=x, w=w, call=call: fastconv.conv2d(x, w, **call),))
            dy = fastconv.conv2d(x, w, **call)
            made.append((lambda dy=dy, x=x, w=w, call=call: fastconv.conv2d_backward(dy, x, w, **call),))
        for entry in fastconv.algorithms("pool"):
            small = x[:1, :2] if entry.name == "naive" else x
            made.append((lambda x=small, name=entry.name: fastconv.max_pool2d(x, 3, 2, 1, algorithm=name),))
            made.append((lambda x=small, name=entry.name: fastconv.avg_pool2d(x, 3, 2, 1, algorithm=name),))
    return [(call, call()) for (call,) in made]


def agree(work, order, deadline=None):
    """Make the calls in this order, over and over until the deadline; each gives the bits that it gave before."""
    calls = 0
    while not calls or (deadline is not None and time.monotonic() < deadline):
        for which in order:
            call, expected = work[which]
            found = call()
            for one, other in zip(
                found if isinstance(found, tuple) else (found,),
                expected if isinstance(expected, tuple) else (expected,),
                strict=True,
            ):
                assert_same_bits(one, other)
            calls += 1
    return calls


def labour_of_32(work, seconds=None):
    """32 Python threads make the calls, each in an order of its own; how many calls they made."""
    barrier = threading.Barrier(32)

    def labour(seed):
        order = generator("order", seed).permutation(len(work))
        barrier.wait()
        with fastconv.use(threads=1 + seed % 3):
            return agree(work, order, None if seconds is None else time.monotonic() + seconds)

    with ThreadPoolExecutor(32) as pool:
        calls = list(pool.map(labour, range(32), timeout=300 + (seconds or 0)))
    assert fastconv.memory_stats()["in_use"] == 0
    return sum(calls)


def test_32_python_threads_mix_algorithms_and_shapes():
    work = jobs()
    fastconv.empty_cache()
    assert labour_of_32(work) == 32 * len(work)


@pytest.mark.slow
def test_a_soak_of_a_minute():
    """32 threads; beside the fixed problems 150 random ones: strides, dilations, groups, both layouts and dtypes."""
    work = jobs()
    shapes = (shape for shape in random_problems(np.random.default_rng(7)) if shape.macs < 100_000)
    for problem in itertools.islice(shapes, 150):
        arrays = SimpleNamespace(indices=None, **{
            name: generator(name, problem).integers(-3, 4, shape).astype(problem.dtype)
            for name in ("input", "weight", "grad_output")
            if (shape := getattr(problem, name.replace("grad_output", "output") + "_shape", None))
        })  # fmt: skip
        for direction in directions_of(problem):
            for name in (
                ("cython_tiled", "im2col_gemm") if isinstance(problem, fastconv.ConvProblem) else ("cython_tiled",)
            ):
                call = fastconv_call(problem, direction, arrays, name)
                work.append((call, call()))
    assert labour_of_32(work, seconds=60) > 1000


# -- Forks ------------------------------------------------------------------------------------------

FORK = """
import multiprocessing, os, sys, threading, numpy as np, fastconv
x = np.arange(2 * 8 * 20 * 20, dtype=np.float32).reshape(2, 8, 20, 20) % 7
w = np.arange(8 * 8 * 9, dtype=np.float32).reshape(8, 8, 3, 3) % 5
slow = ("naive", "numba_direct")  # numba_direct after a fork: test_numba_kernels.py
names = [entry.name for entry in fastconv.algorithms() if entry.name not in slow]
pools = [entry.name for entry in fastconv.algorithms("pool") if entry.name not in slow] or ["naive"]

def everything():
    found = [fastconv.conv2d(x, w, padding=1, algorithm=name) for name in names]
    for name in names:
        found += fastconv.conv2d_backward(found[0], x, w, padding=1, algorithm=name)
    for name in pools:
        found += [fastconv.max_pool2d(x, 2, algorithm=name), fastconv.avg_pool2d(x, 2, algorithm=name)]
    return [array.tobytes() for array in found]

def child(queue):
    queue.put(everything())

before = everything()  # every pool of threads has been used
queue = multiprocessing.get_context(METHOD).SimpleQueue()
children = [multiprocessing.get_context(METHOD).Process(target=child, args=(queue,)) for _ in range(2)]
for process in children:
    process.start()
answers = [queue.get() for _ in children]
for process in children:
    process.join(60)
    assert process.exitcode == 0, process.exitcode
assert answers == [before, before]
assert everything() == before
print("same")
"""


def test_a_call_after_fork():
    assert python("METHOD = 'fork'\n" + FORK).strip() == "same"


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_call_in_a_process_that_multiprocessing_started(method, tmp_path):
    script = tmp_path / "main.py"
    top, rest = FORK.split("before = everything()")
    body = "".join(f"    {line}\n" for line in ("before = everything()" + rest).splitlines())
    script.write_text(f"METHOD = {method!r}\n{top}if __name__ == '__main__':\n{body}")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "same"), done.stderr[-3000:]


def test_a_fork_beside_busy_threads_does_not_hang():
    """The child inherits every lock as it is at that moment."""
    code = """
import os, threading, numpy as np, fastconv
x, w = np.ones((2, 16, 30, 30), np.float32), np.ones((16, 16, 3, 3), np.float32)
names = [entry.name for entry in fastconv.algorithms() if entry.name != "naive"]
for name in names:
    fastconv.conv2d(x, w, algorithm=name)
right = {name: fastconv.conv2d(x, w, algorithm=name) for name in names}
stop = threading.Event()
def labour(name):
    while not stop.is_set():
        fastconv.conv2d(x, w, algorithm=name)
        fastconv.empty_cache()
crowd = [threading.Thread(target=labour, args=(name,)) for name in names * 2]
for thread in crowd: thread.start()
codes = []
for _ in range(12):
    pid = os.fork()
    if pid == 0:
        for name in names:
            if not (fastconv.conv2d(x, w, algorithm=name) == right[name]).all():
                os._exit(1)
        os._exit(0)
    codes.append(os.waitpid(pid, 0)[1])
stop.set()
for thread in crowd: thread.join()
assert codes == [0] * 12, codes
print("same")
"""
    assert python(code, timeout=150).strip() == "same"


# -- Ctrl-C -----------------------------------------------------------------------------------------

INTERRUPT = """
import os, signal, sys, threading, time, numpy as np, fastconv
kind, name = sys.argv[1:]
x = np.ones((8, 64, 256, 256), np.float32)
kernel = 3 if "winograd" in name else 7
w = np.ones((64, 64, kernel, kernel), np.float32)
y = np.ones_like(x)
how = {"padding": kernel // 2, "algorithm": name}
if kind == "pools":
    how |= {"kernel_size": 7, "stride": 1}
    calls = {
        "max_forward": lambda y, x: fastconv.max_pool2d(x, out=y, **how),
        "max_backward": lambda y, x: fastconv.max_pool2d_backward(y, x, **how),
        "avg_forward": lambda y, x: fastconv.avg_pool2d(x, out=y, **how),
        "avg_backward": lambda y, x: fastconv.avg_pool2d_backward(y, x, **how),
    }
    small = lambda: fastconv.avg_pool2d(np.full((1, 1, 3, 3), 9, np.float32), 3, algorithm=name).item()
else:
    forward, backward = getattr(fastconv, kind), getattr(fastconv, kind + "_backward")
    calls = {
        "forward": lambda y, x: forward(x, w, out=y, **how),
        "backward_input": lambda y, x: backward(y, x, w, output_mask=(True, False, False), **how),
        "backward_weight": lambda y, x: backward(y, x, w, output_mask=(False, True, False), **how),
    }
    ones = np.ones((1, 1, 3, 3), np.float32)
    small = lambda: forward(ones, ones, padding=0 if kind == "conv2d" else 2, algorithm=name).item()
for direction, call in calls.items():
    if name != "naive":  # whose Python takes seconds for this
        call(y[:1, :, :9, :9].copy(), x[:1, :, :9, :9])  # compiles, where something does
    struck = []
    def strike():
        struck.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)
    threading.Timer(0.7, strike).start()
    try:
        for _ in range(1000):
            call(y, x)
        print(direction, "was not interrupted")
    except KeyboardInterrupt:
        late, nine = time.perf_counter() - struck[0], small()
        print(direction, "interrupted" if late < 2 and abs(nine - 9) < 1e-3 else f"{late} s late, {nine}")
"""

DIRECTIONS = {
    "conv2d": ("forward", "backward_input", "backward_weight"),
    "conv_transpose2d": ("forward", "backward_input", "backward_weight"),
    "pools": ("max_forward", "max_backward", "avg_forward", "avg_backward"),
}


@pytest.mark.serial
@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, algorithm.name) for kind in DIRECTIONS for algorithm in REGISTRY["pool" if kind == "pools" else "conv"]],
)
def test_ctrl_c(kind, name):
    """KeyboardInterrupt within 2 s, in calls of many seconds, and the next call is right."""
    done = subprocess.run([sys.executable, "-c", INTERRUPT, kind, name], capture_output=True, text=True, timeout=180)
    expected = [f"{direction} interrupted" for direction in DIRECTIONS[kind]]
    assert done.stdout.splitlines() == expected, done.stdout + done.stderr[-2000:]


# -- Files ------------------------------------------------------------------------------------------


def test_no_file_is_written_outside_the_cache_directory(tmp_path):
    home, cache, work = (tmp_path / name for name in ("home", "cache", "work"))
    for place in (home, cache, work):
        place.mkdir()
    code = """
import sys
opened = []
def watch(event, arguments):
    if event == "open" and arguments[1] is not None and any(letter in arguments[1] for letter in "wax+"):
        opened.append(str(arguments[0]))
    elif event in ("os.mkdir", "os.rename", "os.remove", "shutil.copyfile"):
        opened.append(str(arguments[0]))
sys.addaudithook(watch)
import numpy as np, fastconv
x, w = np.ones((1, 3, 9, 9), np.float32), np.ones((4, 3, 3, 3), np.float32)
for entry in fastconv.algorithms():
    y = fastconv.conv2d(x, w, algorithm=entry.name)
    if not entry.name.startswith("numba"):  # it has compiled once; enough to see
        fastconv.conv2d_backward(y, x, w, algorithm=entry.name)
for entry in fastconv.algorithms("pool"):
    fastconv.max_pool2d(x, 3, algorithm=entry.name)
fastconv.explain("f32_n1c3h8w8_k4r3s3"), fastconv.machine(), fastconv.show_config()
import os
fine = (os.environ["FASTCONV_CACHE_DIR"], "/dev/", "/proc/")
print([name for name in opened if not name.startswith(fine) and "meson-logs" not in name])
"""
    environment = {
        **os.environ, "HOME": str(home), "FASTCONV_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(home / "xdg"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=work, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "[]"
    assert list(home.rglob("*")) == []
    assert list(work.rglob("*")) == []
