"""What cython_tiled's files share: the compiled kernels, the task of gathering, and how scratch is shared out."""

from __future__ import annotations

import math
from functools import cache, lru_cache
from typing import Any

import numpy as np

from fastconv.algorithm import Direction
from fastconv.conv.correlation import Correlation, correlation
from fastconv.kernels.cython import load
from fastconv.machine import machine
from fastconv.problem import ConvProblem, Ints
from fastconv.workspace import ALIGNMENT, aligned_bytes

#: The pool runs no more threads than this at once, each with scratch of its own.
MOST_THREADS = 256


@cache
def kernels(name: str) -> Any:
    """The module of compiled kernels, for the best instruction set of this machine."""
    return load(name, machine().levels)


def vector_bytes() -> int:
    """Bytes of that instruction set's vectors."""
    return int(kernels("direct").VECTOR_BYTES)


def steps(prefix: str, shape: Ints, channels_last: bool) -> dict[str, int]:
    """Elements from one image, channel, row and column of a contiguous array to the next."""
    _, a, b, c = shape
    image = a * b * c
    n, channel, row, column = (image, 1, b * c, c) if channels_last else (image, b * c, c, 1)
    return {f"{prefix}_n": n, f"{prefix}_c": channel, f"{prefix}_h": row, f"{prefix}_w": column}


def addresses(tables: dict[str, np.ndarray]) -> dict[str, int]:
    """Where tables begin, for a task; whoever holds the task holds the tables."""
    return {name: table.ctypes.data for name, table in tables.items()}


@lru_cache(maxsize=256)
def share(granted: int, ranges: int, range_bytes: int, slot_bytes: int, threads: int) -> tuple[int, int]:
    """How many threads the granted bytes have slots for, and how many ranges at once beside them."""
    threads = max(1, min(threads, MOST_THREADS, (granted - aligned_bytes(range_bytes)) // slot_bytes))
    left = (granted - threads * slot_bytes) // ALIGNMENT * ALIGNMENT
    return threads, max(1, min(ranges, left // max(range_bytes, 1)))


@lru_cache(maxsize=256)
def gathering(
    problem: ConvProblem, direction: Direction, vector_bytes: int, pixels: int = 0
) -> tuple[Correlation, bytes]:
    """The schedule of forward or grad_input, and what it knows of the task; it keeps the tables."""
    schedule = correlation(problem, direction, vector_bytes, pixels)
    forward = direction is Direction.FORWARD
    taps = math.prod(problem.kernel)
    k_step = problem.group_in_channels * taps
    source, dest = (problem.input_shape, problem.output_shape)[:: 1 if forward else -1]
    task = kernels("direct").correlation_task(
        weight_dest=k_step if forward else taps, weight_source=taps if forward else k_step,
        weight_group=problem.group_out_channels * k_step, scratch_bytes=schedule.slot_bytes,
        **schedule.fields, **addresses(schedule.tables),
        **steps("source", source, problem.channels_last), **steps("dest", dest, problem.channels_last),
    )  # fmt: skip
    return schedule, task
