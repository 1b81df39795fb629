"""The thread pool: every item once, whatever happens around it."""

import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fastconv import _native, threads

KERNEL = _native.TEST_KERNELS
THREADS = (1, 2, 3, 16)


def count(items, n, counts=None):
    """Run the counting kernel; return how often each item was done."""
    counts = np.zeros(items, np.int64) if counts is None else counts
    threads.run(KERNEL["count"], struct.pack("N", counts.ctypes.data), items, n)
    return counts


def spin(items, microseconds, n, counts=None):
    """Keep a core busy so long for each item."""
    counts = np.zeros(max(items, 1), np.int64) if counts is None else counts
    threads.run(KERNEL["spin"], struct.pack("Nq", counts.ctypes.data, int(1000 * microseconds)), items, n)
    return counts


def python(code, *, timeout=60, **environment):
    """Run code in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        timeout=timeout,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- Every item once --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", THREADS)
@pytest.mark.parametrize("items", [0, 1, 2, 3, 5, 16, 17, 31, 33, 1000, 100_003])
def test_every_item_is_done_once(items, n):
    assert (count(items, n) == 1).all()


@pytest.mark.parametrize("n", THREADS)
def test_many_runs_in_a_row(n):
    counts = np.zeros(37, np.int64)
    for _ in range(2000):
        count(37, n, counts)
    assert (counts == 2000).all()


@pytest.mark.parametrize("n", THREADS)
def test_after_the_workers_have_fallen_asleep(n):
    for pause in (0, 0.001, 0.01):
        time.sleep(pause)
        assert (spin(40, 50, n) == 1).all()


def test_a_count_that_is_wrong_is_noticed():
    counts = np.zeros(3, np.int64)
    counts[1] = 1
    assert not (count(3, 2, counts) == 1).all()


def test_more_threads_than_the_bound_are_the_bound():
    assert (count(5000, 10**9) == 1).all()
    assert _native.workers() < _native.MAX_THREADS


@pytest.mark.parametrize("n", THREADS)
@pytest.mark.parametrize("length", [0, 1, 100, 126, 127, 5000])
def test_the_task_is_copied_whole_and_aligned(n, length):
    numbers = np.arange(length, dtype=np.int64)
    seen = np.zeros((64, 2), np.int64)
    task = struct.pack("Nq", seen.ctypes.data, length) + numbers.tobytes()
    threads.run(KERNEL["task"], task, 64, n)
    assert (seen[:, 0] % 64 == 0).all()
    assert len(set(seen[:, 0])) == 1, "all threads share one copy"
    assert (seen[:, 1] == numbers.sum()).all()


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="null"):
        threads.run(0, b"", 1, 1)
    with pytest.raises(ValueError, match="items"):
        threads.run(KERNEL["nothing"], b"", -1, 1)
    with pytest.raises(TypeError):
        threads.run(KERNEL["nothing"], None, 1, 1)


# -- Others at the same time ------------------------------------------------------------------------


def test_32_python_threads_at_once():
    def work(seed):
        rng = np.random.default_rng(seed)
        return all((count(int(rng.integers(0, 300)), int(rng.choice(THREADS))) == 1).all() for _ in range(200))

    with ThreadPoolExecutor(32) as executor:
        assert all(executor.map(work, range(32)))


def test_a_second_run_does_not_wait_for_the_first():
    started = threading.Event()

    def long_run():
        started.set()
        spin(40, 20_000, 2)

    other = threading.Thread(target=long_run)
    other.start()
    started.wait()
    time.sleep(0.05)
    begin = time.perf_counter()
    assert (count(100, 2) == 1).all()
    took = time.perf_counter() - begin
    assert other.is_alive(), "the long run ended too early to tell"
    other.join()
    assert took < 0.2


def test_the_gil_is_released():
    ticks, end = 0, threading.Event()

    def long_run():
        spin(10, 20_000, 1)
        end.set()

    other = threading.Thread(target=long_run)
    other.start()
    while not end.wait(0.005):
        ticks += 1
    other.join()
    assert ticks > 5


def test_nested_in_a_signal_handler():
    """A handler that runs between slices may call the library: the pool is busy then."""
    output = python(
        """
import signal, struct, numpy as np
from fastconv import _native, threads
inner, outer = np.zeros(50, np.int64), np.zeros(60, np.int64)
def handler(*_):
    threads.run(_native.TEST_KERNELS["count"], struct.pack("N", inner.ctypes.data), 50, 2)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
threads.run(_native.TEST_KERNELS["spin"], struct.pack("Nq", outer.ctypes.data, 10_000_000), 60, 2)
print((inner == 1).all(), (outer == 1).all())
"""
    )
    assert output.split() == ["True", "True"]


@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_no_race_in_the_pool(sanitizer, tmp_path):
    here = Path(__file__).resolve().parent
    package, program = here.parent / "fastconv", tmp_path / "stress"
    native, kernels = package / "native", package / "kernels" / "cython"
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    flags = [
        "-std=gnu11",
        "-O1",
        "-g",
        f"-fsanitize={sanitizer}",
        "-fno-sanitize-recover=all",
        "-pthread",
        f"-I{native}",
    ]
    build = subprocess.run(
        [compiler, *flags, f"-I{native}", f"-I{kernels}", here / "pool_stress.c", native / "pool.c", "-o", program],
        capture_output=True,
        text=True,
    )
    if build.returncode:
        pytest.skip(f"no sanitizer: {build.stderr.strip().splitlines()[-1]}")
    done = subprocess.run([program], capture_output=True, text=True, timeout=120)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel's address layout is too random for the sanitizer")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "wrong 0 workers 4"


# -- Fork -------------------------------------------------------------------------------------------

AFTER_FORK = """
import os, struct, sys, numpy as np
from fastconv import _native, threads
def ok(items=1000, n=4):
    counts = np.zeros(items, np.int64)
    threads.run(_native.TEST_KERNELS["count"], struct.pack("N", counts.ctypes.data), items, n)
    return bool((counts == 1).all())
"""


def test_a_forked_child_runs_alone_and_never_hangs():
    output = python(
        AFTER_FORK
        + """
assert ok() and _native.workers() == 3
child = os.fork()
if child == 0:
    grandchild = os.fork()
    good = ok() and threads.forked() and _native.workers() == 0
    if grandchild:
        good = good and os.waitpid(grandchild, 0)[1] == 0
    os._exit(0 if good else 1)
print(os.waitpid(child, 0)[1] == 0, ok(), threads.forked())
"""
    )
    assert output.split() == ["True", "True", "False"]


def test_fork_while_the_pool_is_busy():
    output = python(
        AFTER_FORK
        + """
import threading, time
counts = np.zeros(60, np.int64)
task = struct.pack("Nq", counts.ctypes.data, 10_000_000)
busy = threading.Thread(target=lambda: threads.run(_native.TEST_KERNELS["spin"], task, 60, 2))
busy.start()
codes = []
for _ in range(5):
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        os._exit(0 if ok() else 1)
    codes.append(os.waitpid(child, 0)[1])
busy.join()
print(codes == [0] * 5, (counts == 1).all())
"""
    )
    assert output.split() == ["True", "True"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        AFTER_FORK
        + f"""
import multiprocessing
if __name__ == "__main__":
    ok()
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        print(pool.map(ok, [10, 100, 1000]))
"""
    )
    done = subprocess.run([sys.executable, script], timeout=60, capture_output=True, text=True)
    assert done.stdout.split() == ["[True,", "True,", "True]"], done.stderr


def test_the_process_ends_while_a_daemon_thread_runs():
    python(
        """
import struct, threading, time, numpy as np
from fastconv import _native, threads
counts = np.zeros(1000, np.int64)
task = struct.pack("Nq", counts.ctypes.data, 10_000_000)
threading.Thread(target=threads.run, args=(_native.TEST_KERNELS["spin"], task, 1000, 2), daemon=True).start()
time.sleep(0.1)
""",
        timeout=20,
    )


# -- Interruption -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ctrl_c_in_a_long_run(n):
    code = f"""
import signal, struct, sys, time, numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from fastconv import _native, threads
counts = np.zeros(3000, np.int64)
task = struct.pack("Nq", counts.ctypes.data, 10_000_000)
print("ready", flush=True)
try:
    threads.run(_native.TEST_KERNELS["spin"], task, 3000, {n})
except KeyboardInterrupt:
    print("interrupted", 0 < counts.sum() < 3000, flush=True)
counts[:] = 0
threads.run(_native.TEST_KERNELS["count"], struct.pack("N", counts.ctypes.data), 3000, {n})
print("again", (counts == 1).all())
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().strip() == "ready"
        time.sleep(0.3)
        sent = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline().strip() == "interrupted True"
        assert time.perf_counter() - sent < 1.5
        assert process.stdout.readline().strip() == "again True"
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_any_exception_of_a_handler_is_raised():
    def handler(*_):
        raise TimeoutError("enough")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(TimeoutError, match="enough"):
            spin(3000, 10_000, 2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert (count(10, 2) == 1).all()


# -- Memory -----------------------------------------------------------------------------------------


def test_no_memory_for_threads_is_no_error():
    output = python(
        AFTER_FORK
        + """
import resource
task = bytes(8 << 20)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (3 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(ok(1000, 200), _native.workers() < 199)
try:
    threads.run(_native.TEST_KERNELS["nothing"], task, 10, 2)  # its copy is larger than what is left
except MemoryError as error:
    print("MemoryError", "bytes" in str(error))
print(ok(1000, 200))
"""
    )
    assert output.split() == ["True", "True", "MemoryError", "True", "True"]


# -- The setting ------------------------------------------------------------------------------------


@pytest.fixture
def setting():
    before = threads._setting
    yield
    threads._setting = before
    threads.limit_blas(threads.get_num_threads())


def test_the_setting_of_the_process(setting):
    threads.set_num_threads(np.int64(3))
    assert threads.get_num_threads() == 3
    assert isinstance(threads.get_num_threads(), int)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, 2.0, "2", None, True, np.float32(2), [2]])
def test_wrong_settings(wrong, setting):
    with pytest.raises(ValueError, match="threads must be"):
        threads.set_num_threads(wrong)


def test_the_default_is_what_the_process_may_use():
    assert 1 <= threads.get_num_threads() <= len(os.sched_getaffinity(0)) or threads._setting
    one = min(os.sched_getaffinity(0))
    code = "import os; os.sched_setaffinity(0, [ONE]); import fastconv; print(fastconv.get_num_threads())"
    assert python(code.replace("ONE", str(one))).strip() == "1"


def test_blas_follows(setting):
    import threadpoolctl

    threads.set_num_threads(1)
    info = threadpoolctl.threadpool_info()
    assert [entry["num_threads"] for entry in info if entry["user_api"] == "blas"] == [1] * len(
        [entry for entry in info if entry["user_api"] == "blas"]
    )


def test_import_without_the_compiled_unit():
    output = python(
        """
import sys
sys.modules["fastconv._native"] = None
import fastconv
from fastconv import threads
print(threads.unavailable())
try:
    threads.run(1, b"", 1)
except RuntimeError as error:
    print(error)
"""
    )
    assert output.count("cannot be imported") == 2


# -- Numba ------------------------------------------------------------------------------------------

NUMBA = """
import os, threading, numba, numpy as np
from fastconv import threads
@numba.njit(parallel=True)
def parallel(out, first, last):
    for i in numba.prange(first, last):
        out[i] += 1
@numba.njit(nogil=True)
def serial(out, first, last):
    for i in range(first, last):
        out[i] += 1
def ok(n=2, items=1000):
    out = np.zeros(items, np.int64)
    threads.run_numba(parallel, serial, (out,), n, items=items)
    return (out == 1).all()
"""


@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_numba_in_32_threads_and_after_fork(layer):
    output = python(
        NUMBA
        + """
assert ok(1) and ok(2) and ok(16)
before = numba.get_num_threads()
good = []
def work():
    good.append(all(ok(2) for _ in range(50)))
many = [threading.Thread(target=work) for _ in range(32)]
[thread.start() for thread in many]
[thread.join() for thread in many]
child = os.fork()
if child == 0:
    os._exit(0 if ok(2) else 1)
print(len(good), all(good), os.waitpid(child, 0)[1], numba.get_num_threads() == before)
""",
        NUMBA_THREADING_LAYER=layer,
        timeout=120,
    )
    assert output.split() == ["32", "True", "0", "True"]


def test_numba_gets_the_threads_asked_for():
    numba = pytest.importorskip("numba")
    most, seen = numba.config.NUMBA_NUM_THREADS, []

    def parallel():
        seen.append(numba.get_num_threads())
        threads.run_numba(parallel, lambda: seen.append("serial"), (), 2)

    before = numba.get_num_threads()
    threads.run_numba(parallel, lambda: seen.append("one"), (), 1)
    threads.run_numba(parallel, None, (), 16)
    assert seen == ["one", most, "serial"]
    assert numba.get_num_threads() == before


@pytest.mark.parametrize("n", THREADS)
def test_slices_cover_every_item_once(n):
    done = []
    threads._sliced(lambda first, last: done.extend(range(first, last)), (), 1003, n)
    assert done == list(range(1003))
    threads._sliced(lambda first, last: done.append(0), (), 0, n)
    assert len(done) == 1003
