"""The door to the kernels that Numba compiles: whether it is there, what is compiled, how a kernel is run.

Nothing here imports Numba before a kernel is asked for.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import numpy as np

from fastconv import threads as _threads

_log = logging.getLogger(__name__)

#: (kernel, dtype) of what is compiled in this process.
_compiled: set[tuple[str, str]] = set()


@cache
def _installed() -> bool:
    return find_spec("numba") is not None


def unavailable() -> str | None:
    """Why nothing can be compiled here, or None."""
    if not _installed():
        return "Numba is not installed"
    # While another thread imports it, it has no configuration yet.
    loaded = getattr(sys.modules.get("numba"), "config", None)
    # The variable counts before the import of Numba, the configuration after it.
    disabled = loaded.DISABLE_JIT if loaded else os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
    return "NUMBA_DISABLE_JIT is set: its kernels would be interpreted" if disabled else None


def generation() -> int:
    """A number that changes when a kernel was compiled: what was planned before may be planned better now."""
    return len(_compiled)


def ready(kernels: tuple[str, ...], dtype: str) -> bool:
    """Whether these kernels are compiled, and their parallel callers too."""
    return all((kernel, dtype) in _compiled for kernel in kernels) and (
        _threads.forked() or all((f"{kernel}_parallel", dtype) in _compiled for kernel in kernels)
    )


def ready_serial(kernels: tuple[str, ...], dtype: str) -> bool:
    """Whether these kernels are compiled, for one thread."""
    return all((kernel, dtype) in _compiled for kernel in kernels)


def flat(array: np.ndarray, writable: bool = False) -> np.ndarray:
    """A C-contiguous array as the kernels take it: one axis, read-only unless it is a result.

    Numba compiles a kernel anew for read-only arrays; so all inputs are.
    """
    view = array.reshape(-1)
    view.flags.writeable = writable
    return view


def compiled(function: Any, args: tuple[Any, ...], dtype: str) -> Callable[..., Any]:
    """Compile `function` for such arguments unless it is."""
    key = (function.__name__, dtype)
    if key not in _compiled:
        from numba import typeof

        start = perf_counter()
        with _threads.unforkable:
            function.compile(tuple(typeof(argument) for argument in args))
        _log.info("compiled %s for %s in %.2f s", *key, perf_counter() - start)
        _compiled.add(key)
    return function  # type: ignore[no-any-return]


def compile_serial(module: Any, kernel: str, args: tuple[Any, ...], dtype: str) -> Callable[..., Any]:
    """Compile `kernel` alone, without its parallel caller."""
    return compiled(getattr(module, kernel), (*args, 0, 0, 0, 1), dtype)


def run_serial(module: Any, kernel: str, args: tuple[Any, ...], dtype: str, items: int) -> None:
    """Run `kernel` over work items on the calling thread."""
    range_kernel = compile_serial(module, kernel, args, dtype)

    def serial(*arguments: Any) -> None:
        *rest, first, last = arguments
        range_kernel(*rest, 0, first, last, 1)

    _threads.run_numba(serial, serial, args, 1, items=items)


def run(module: Any, kernel: str, args: tuple[Any, ...], dtype: str, threads: int, items: int) -> None:
    """Run `kernel` of a module of kernels over work items, after compiling it and its parallel caller if need be.

    Both, because a call that finds Numba's threads busy is serial, and should not compile then.
    """
    range_kernel = compile_serial(module, kernel, args, dtype)

    def serial(*arguments: Any) -> None:
        *rest, first, last = arguments
        range_kernel(*rest, 0, first, last, 1)

    parallel = serial
    if not _threads.forked():
        parallel = compiled(getattr(module, f"{kernel}_parallel"), (*args, 0, 0), dtype)
    _threads.run_numba(parallel, serial, args, threads, items=items)
