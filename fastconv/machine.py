"""What this machine is and can: instruction sets, cores, caches, memory, and measured limits.

Nothing is measured here: `measured` holds what `fastconv info --measure` or a bench run left in the cache
directory, and cost models read `peak_flops` and `copy_bandwidth`, which fall back to sane figures.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from fastconv import store

X86_LEVELS = ("v4", "v3", "v2")  # best first; the x86-64 levels of the psABI

# float32 operations per cycle and core: lanes x 2 units x 2 (a multiplication and an addition).
_FLOPS_PER_CYCLE = {"v4": 64, "v3": 32, "v2": 16, "base": 16}
_DEFAULT_HZ = 3e9
_DEFAULT_COPY = 16e9  # bytes read + written per second: one core of an ordinary server


@dataclass(frozen=True)
class Limits:
    """Measured figures; `fastconv.limits.measure` makes them."""

    float32: dict[str, float]  # GFLOP/s of one thread, by level
    float64: dict[str, float]
    copy_memory: float  # GB/s read + written, beyond the caches, by `threads` threads
    copy_cache: float  # GB/s read + written within the L2 caches, by `threads` threads
    call_overhead: float  # seconds of an empty threads.run on one thread
    fork_overhead: float  # seconds of an empty threads.run on `threads` threads
    threads: int
    threads_float32: float  # GFLOP/s of all `threads` together at the best level

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary that `json` can write."""
        return asdict(self)


@dataclass(frozen=True)
class Machine:
    """One machine, as far as this process may use it. Sizes are in bytes."""

    cpu: str
    architecture: str
    levels: tuple[str, ...]  # instruction sets that kernels may use here, best first
    cores: int  # that this process may use
    l1: int  # data cache of a core
    l2: int
    l3: int  # shared; 0: none
    memory: int
    forced: str | None = None  # FASTCONV_ISA, if set
    measured: Limits | None = field(default=None, compare=False)

    @property
    def level(self) -> str:
        """The best instruction set; "none" if no kernel can run."""
        return self.levels[0] if self.levels else "none"

    @property
    def fingerprint(self) -> str:
        """Identifies what measured figures depend on."""
        facts = (self.cpu, self.architecture, self.levels, self.cores, self.l1, self.l2, self.l3)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def peak_flops(self, dtype: Any = "float32") -> float:
        """Floating-point operations per second of one thread: measured, else from the instruction set."""
        name = str(getattr(dtype, "name", dtype))
        if name not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
        rates: dict[str, float] = getattr(self.measured, name) if self.measured else {}
        for level in self.levels:  # the best one that is built
            if level in rates:
                return rates[level] * 1e9
        return _DEFAULT_HZ * _FLOPS_PER_CYCLE.get(self.level, 8) / (2 if name == "float64" else 1)

    @property
    def copy_bandwidth(self) -> float:
        """Bytes read + written per second by a large copy: measured, else a sane figure."""
        return self.measured.copy_memory * 1e9 if self.measured else _DEFAULT_COPY

    @property
    def cache_bandwidth(self) -> float:
        """Bytes read + written per second by a copy within the L2 cache: measured, else a sane figure."""
        return self.measured.copy_cache * 1e9 if self.measured else 4 * _DEFAULT_COPY

    @property
    def call_overhead(self) -> float:
        """Seconds of starting a run of several threads: measured, else a sane figure."""
        return self.measured.fork_overhead if self.measured else 5e-6


@cache
def machine() -> Machine:
    """Return this machine; the same value until `forget`.

    Returns
    -------
    Machine
        Instruction sets, cores, caches in bytes, and speeds: measured ones where they were measured, else defaults.

    Raises
    ------
    ValueError
        FASTCONV_ISA names an instruction set that does not exist or that this CPU does not have.

    Examples
    --------
    >>> import fastconv
    >>> fastconv.machine().cores >= 1
    True
    """
    possible = _possible_levels()
    forced = os.environ.get("FASTCONV_ISA") or None
    if forced is not None and forced not in possible:
        raise ValueError(
            f"FASTCONV_ISA={forced!r}: not an instruction set of this machine, which runs "
            f"{', '.join(possible) or 'none that fastconv has kernels for'}"
        )
    l1, l2, l3 = _caches()
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "architecture": platform.machine(),
        "levels": (forced,) if forced else possible,
        "cores": usable_cores(),
        "l1": l1,
        "l2": l2,
        "l3": l3,
        "memory": _memory(),
        "forced": forced,
    }
    return Machine(**facts, measured=_stored_limits(Machine(**facts).fingerprint))


def forget() -> None:
    """Make the next `machine()` look again: after measuring."""
    machine.cache_clear()


# -- Measured figures on disk -----------------------------------------------------------------------

_LIMITS_VERSION = 1


def store_limits(limits: Limits) -> bool:
    """Keep measured figures for this machine; return whether they are on disk."""
    done = store.write("limits", machine().fingerprint, limits.as_dict(), version=_LIMITS_VERSION)
    forget()
    return done


def _stored_limits(fingerprint: str) -> Limits | None:
    data = store.read("limits", fingerprint, version=_LIMITS_VERSION)
    try:
        limits = Limits(**data)
        rates = [*limits.float32.values(), *limits.float64.values(), limits.copy_memory, limits.copy_cache]
        return limits if rates and all(rate > 0 for rate in rates) else None
    except (TypeError, AttributeError):  # None, or a file that somebody edited
        return None


# -- Asking the machine -----------------------------------------------------------------------------


def _possible_levels() -> tuple[str, ...]:
    if platform.machine() not in ("x86_64", "AMD64"):
        return ("base",)
    try:
        from fastconv import _native
    except ImportError:
        return ()
    return tuple(level for level in X86_LEVELS if int(level[1:]) <= _native.x86_level())


def _cpu_name() -> str:
    try:
        from fastconv import _native

        name = _native.cpu_name()
    except ImportError:
        name = ""
    return name or platform.processor() or "unknown"


@cache
def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, within its cgroup's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, quota) if quota else cores)


def _cgroup_quota() -> int | None:
    """Return the cores that cgroup v2 grants, rounded up, or None."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        group = next(line[3:] for line in lines if line.startswith("0::"))
        folder = Path("/sys/fs/cgroup") / group.strip("/")
        quotas = []
        for place in (folder, *folder.parents):
            limit = place / "cpu.max"
            if place.is_relative_to("/sys/fs/cgroup") and limit.is_file():
                granted, period = limit.read_text().split()
                if granted != "max":
                    quotas.append(-(-int(granted) // int(period)))
        return min(quotas, default=None)
    except (OSError, ValueError, StopIteration, ZeroDivisionError):
        return None


def _caches() -> tuple[int, int, int]:
    """Return the sizes of L1d, L2 and L3 of the first core; those of a common CPU where it is silent."""
    found: dict[int, int] = {}
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if (index / "type").read_text().strip() == "Instruction":
                continue
            text = (index / "size").read_text().strip()
            unit = units.get(text[-1:])
            found[int((index / "level").read_text())] = int(text[:-1]) * unit if unit else int(text)
        except (OSError, ValueError):
            continue
    return found.get(1, 32 << 10), found.get(2, 512 << 10), found.get(3, 0 if found else 8 << 20)


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 4 << 30
