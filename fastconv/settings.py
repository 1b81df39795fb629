"""The settings in force: `use` for this context, `configure` for the process.

Precedence: an argument of the call, then `use`, then `configure`, then the default.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ContextDecorator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, TypeAlias, TypeVar

from fastconv import threads as _threads
from fastconv import workspace
from fastconv.errors import shown

FAMILIES = ("conv", "pool")

#: Registered names per family; the planner, which knows the registries, fills it in.
known_names: dict[str, tuple[str, ...]] = dict.fromkeys(FAMILIES, ())

#: What users may write as a preference: a name, several in order, or one of these per family.
Preference: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]]


_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Settings:
    """One consistent set of settings; hashable, so that plans are cached by it."""

    #: Preferred algorithms per family, in the order of FAMILIES; empty: auto.
    preferred: tuple[tuple[str, ...], ...] = ((), ())
    #: Threads for our own kernels and Numba's; None: as many as the process may use.
    threads: int | None = None
    #: Largest expected error that lets "auto" take a transform.
    tolerance: float = 1e-5
    #: Bytes of scratch per call.
    workspace_limit: int = 256 * 2**20
    #: Raise where no preferred algorithm can compute a problem, instead of choosing another.
    strict: bool = False

    def preference(self, family: str) -> tuple[str, ...]:
        """Preferred names for `family`, best first."""
        return self.preferred[FAMILIES.index(family)]


_process = Settings()
#: The changes of every `use` that is entered, innermost last.
_context: ContextVar[tuple[dict[str, Any], ...]] = ContextVar("fastconv_settings", default=())


def _listed(value: object) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"algorithm must be a name, a list of names, or a dict of these per family, got {shown(value)}")
    return names  # type: ignore[return-value]


def check_names(value: object, families: Sequence[str]) -> tuple[str, ...]:
    """The names in `value` before "auto", which always runs; each must be registered in one of `families`."""
    known = dict.fromkeys(name for family in families for name in known_names[family])
    names = _listed(value)
    for name in names:
        if name != "auto" and name not in known:
            kind = families[0] + " algorithm" if len(families) == 1 else "algorithm"
            raise ValueError(f"unknown {kind} {shown(name)}; the names are auto, {', '.join(known)}")
    return names[: names.index("auto")] if "auto" in names else names


def _preferred(algorithm: object) -> tuple[tuple[str, ...], ...]:
    if isinstance(algorithm, Mapping):
        for family in algorithm:
            if family not in FAMILIES:
                raise ValueError(f"unknown family {shown(family)}; the families are {', '.join(FAMILIES)}")
        return tuple(check_names(algorithm.get(family, "auto"), [family]) for family in FAMILIES)
    names = check_names(algorithm, FAMILIES)
    # A name that only one family has says nothing about the other.
    return tuple(tuple(name for name in names if name in known_names[family]) for family in FAMILIES)


def _changes(
    algorithm: Preference | None,
    threads: int | None,
    tolerance: float | None,
    workspace_limit: int | None,
    strict: bool | None,
) -> dict[str, Any]:
    """Only what was given, checked."""
    changes: dict[str, Any] = {}
    if algorithm is not None:
        changes["preferred"] = _preferred(algorithm)
    if threads is not None:
        changes["threads"] = _threads.validate_threads(threads)
    if tolerance is not None:
        if isinstance(tolerance, (bool, str)) or not isinstance(tolerance, (int, float)):
            raise TypeError(f"tolerance must be a number, got {shown(tolerance)}")
        if not 0 <= tolerance <= sys.float_info.max:
            raise ValueError(f"tolerance must be finite and at least 0, got {shown(tolerance)}")
        changes["tolerance"] = float(tolerance)
    if workspace_limit is not None:
        changes["workspace_limit"] = workspace.check_limit(workspace_limit)
    if strict is not None:
        if not isinstance(strict, bool):
            raise TypeError(f"strict must be True or False, got {shown(strict)}")
        changes["strict"] = strict
    return changes


def current() -> Settings:
    """The settings in force here and now."""
    layered: dict[str, Any] = {}
    for changes in _context.get():
        layered |= changes
    return replace(_process, **layered) if layered else _process


class Using(ContextDecorator):
    """What `use` returns. It holds no state of its own: it may be entered again and again, also inside of itself."""

    def __init__(self, changes: dict[str, Any]) -> None:
        self._changes = changes

    def __enter__(self) -> Settings:
        _context.set((*_context.get(), self._changes))
        return current()

    def __exit__(self, *error: object) -> None:
        layers = _context.get()
        # The innermost of this one: blocks of generators need not end in the order in which they began.
        ours = max((i for i, changes in enumerate(layers) if changes is self._changes), default=None)
        if ours is None:
            raise RuntimeError("use() was left more often than it was entered in this context")
        _context.set(layers[:ours] + layers[ours + 1 :])

    def __call__(self, func: _Function) -> _Function:
        if any(kind(func) for kind in (iscoroutinefunction, isgeneratorfunction, isasyncgenfunction)):
            raise TypeError("use() decorates plain functions; in a coroutine or generator write `with use(...):`")
        return super().__call__(func)


def use(
    *,
    algorithm: Preference | None = None,
    threads: int | None = None,
    tolerance: float | None = None,
    workspace_limit: int | None = None,
    strict: bool | None = None,
) -> Using:
    """Settings for the code inside a ``with`` block, or for a decorated function; only in this context.

    Parameters
    ----------
    algorithm : str, list of str, or dict, optional
        A preference: the first that can compute a problem runs, otherwise "auto" chooses. A dict gives one
        preference for each of "conv" and "pool".
    threads : int, optional
        Threads for fastconv's and Numba's kernels. BLAS has one setting per process: see `set_num_threads`.
    tolerance : float, optional
        Largest expected error, max|error| / max|result|, with which "auto" takes a transform; 0 admits none.
    workspace_limit : int, optional
        Bytes of scratch per call, all threads together.
    strict : bool, optional
        Raise `UnsupportedProblem` where no preferred algorithm can compute a problem.

    Returns
    -------
    context manager
        Also a decorator, of plain functions; entering it, as often as one likes, gives the settings then in force.

    Raises
    ------
    TypeError, ValueError
        For a value of the wrong kind, and for a name that nothing is registered under.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> with fastconv.use(algorithm="naive", threads=1):
    ...     fastconv.conv2d(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)))
    array([[[[9.]]]])
    """
    changes = _changes(algorithm, threads, tolerance, workspace_limit, strict)
    return Using(changes)


def configure(
    *,
    algorithm: Preference | None = None,
    threads: int | None = None,
    tolerance: float | None = None,
    workspace_limit: int | None = None,
    strict: bool | None = None,
) -> None:
    """The same settings as `use`, for the whole process; those not given stay as they are.

    Parameters
    ----------
    algorithm, tolerance, workspace_limit, strict
        As in `use`.
    threads : int, optional
        As `set_num_threads`: for BLAS too.

    Raises
    ------
    TypeError, ValueError
        As `use`; then nothing has changed.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.configure(tolerance=1e-5)
    """
    global _process
    changes = _changes(algorithm, threads, tolerance, workspace_limit, strict)
    if "threads" in changes:
        _threads.set_num_threads(changes["threads"])
        del changes["threads"]
    _process = replace(_process, **changes)


def set_num_threads(n: int) -> None:
    """Threads for all of fastconv in this process: its own kernels, Numba's, and the BLAS that NumPy uses.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    ValueError
        For anything but an int of at least 1.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.set_num_threads(fastconv.get_num_threads())
    """
    configure(threads=_threads.validate_threads(n))


def get_num_threads() -> int:
    """Threads that a call here and now may use.

    Examples
    --------
    >>> import fastconv
    >>> with fastconv.use(threads=1):
    ...     fastconv.get_num_threads()
    1
    """
    threads = current().threads
    return _threads.get_num_threads() if threads is None else threads
