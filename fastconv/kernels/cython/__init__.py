"""Compiled kernels: each NAME.pyx is built once per instruction set, into modules NAME_<level>.

A kernel module offers *range functions*, `void fn(void *task, ptrdiff_t first, ptrdiff_t last)` in C,
by the address of each; `fastconv.threads.run` calls them with ranges of work items. Importing this
package loads none of them.
"""

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import ModuleType


@cache
def _load(name: str, levels: tuple[str, ...]) -> ModuleType:
    try:
        from fastconv.kernels.cython import built
    except ImportError:
        raise ImportError(f"no compiled kernels: {__name__} is not built (pip install .)") from None
    if name not in built.KERNELS:
        raise ImportError(f"no compiled kernel {name!r}; this build holds {', '.join(built.KERNELS)}")
    for level in levels:
        if level in built.LEVELS:
            return import_module(f"{__name__}.{name}_{level}")
    here = ", ".join(levels) or "none of the levels known"
    raise ImportError(f"kernel {name!r} is built for {', '.join(built.LEVELS)}; this machine runs {here}")


def load(name: str, levels: Sequence[str]) -> ModuleType:
    """Return the compiled kernel module `name` for the best of `levels` that was built.

    Parameters
    ----------
    name : str
        The kernel, as meson.build lists it.
    levels : sequence of str
        Instruction sets this machine can run, best first: `fastconv.machine.machine().levels`.

    Raises
    ------
    ImportError
        With the reason: nothing is built, there is no such kernel, no common instruction set, or the
        module is broken.
    """
    return _load(name, tuple(levels))
