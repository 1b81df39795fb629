"""The arrays of one problem: seeded, of order 1, without subnormals; their contents change in place between rounds."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

import fastconv
from bench import reference
from bench.presets import Problem

#: No value is smaller: products of two, and sums of products, stay far from the subnormals of float32.
SMALLEST = 2.0**-10


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Independent N(0, 1) values, those nearer to 0 than `SMALLEST` moved out to it."""
    values = rng.standard_normal(shape, dtype=np.dtype(dtype).type)
    return np.where(np.abs(values) < SMALLEST, np.copysign(values.dtype.type(SMALLEST), values), values)


class Operands:
    """What a candidate computes from; the arrays stay, their contents don't.

    `indices` are those of `input`; where they are used (the gradient of a maximum) the input stays as it is,
    and the upstream gradient changes.
    """

    def __init__(self, problem: Problem, direction: str, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.problem, self.direction = problem, direction
        self.input: np.ndarray | None = None
        self.weight: np.ndarray | None = None
        self.grad_output: np.ndarray | None = None
        self.indices: np.ndarray | None = None
        if direction.startswith("forward") or direction == "backward_weight" or _is_max(problem):
            self.input = normal(rng, problem.input_shape, problem.dtype)
        if isinstance(problem, fastconv.ConvProblem) and direction != "backward_weight":
            self.weight = normal(rng, problem.weight_shape, problem.dtype)
        if direction.startswith("backward"):
            self.grad_output = normal(rng, problem.output_shape, problem.dtype)
        if direction == "backward_input" and _is_max(problem):
            assert self.input is not None
            self.indices = reference.max_pool(problem, self.input)[1]
        self._first = [array.copy() for array in self._changing]

    @property
    def _changing(self) -> list[np.ndarray]:
        fixed_input = self.indices is not None
        arrays = [None if fixed_input else self.input, self.weight, self.grad_output]
        return [array for array in arrays if array is not None]

    def change(self, rng: np.random.Generator) -> None:
        """Move every value to another place, in the same memory: an algorithm must read it again."""
        for array, first in zip(self._changing, self._first, strict=True):
            flat, source = array.reshape(-1), first.reshape(-1)
            cut = int(rng.integers(1, max(flat.size, 2)))
            flat[: flat.size - cut] = source[cut:]
            flat[flat.size - cut :] = source[:cut]

    def double(self) -> float:
        """Give every array twice its first contents, and return by what that multiplies the results.

        Every direction is linear in each of its arrays (a maximum: in a positive factor), and powers of two
        are exact; so the right answer is known, and a candidate that remembers old contents gives another.
        """
        for array, first in zip(self._changing, self._first, strict=True):
            np.multiply(first, 2, out=array)
        return 2.0 ** len(self._first)

    def expected(self) -> tuple[np.ndarray, ...]:
        """The right results for the present contents, in float64."""
        problem, operands = self.problem, (self.input, self.weight, self.grad_output, self.indices)
        input, weight, grad_output, indices = (cast("np.ndarray", array) for array in operands)
        if isinstance(problem, fastconv.ConvProblem):
            if self.direction == "forward":
                return (reference.conv(problem, input, weight),)
            if self.direction == "backward_input":
                return (reference.conv_backward_input(problem, grad_output, weight),)
            return (reference.conv_backward_weight(problem, grad_output, input),)
        if problem.kind == "max":
            if self.direction == "backward_input":
                return (reference.max_pool_backward(problem, grad_output, indices),)
            output, where = reference.max_pool(problem, input)
            return (output, where) if self.direction == "forward_indices" else (output,)
        if self.direction == "forward":
            return (reference.avg_pool(problem, input),)
        return (reference.avg_pool_backward(problem, grad_output),)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.input, self.weight, self.grad_output, self.indices)
        return sum(array.nbytes for array in arrays if array is not None)


def _is_max(problem: Problem) -> bool:
    return getattr(problem, "kind", None) == "max"


def reduction(problem: Problem, direction: str) -> int:
    """Products, or elements, summed into one element of the result."""
    window = math.prod(problem.kernel)
    if not isinstance(problem, fastconv.ConvProblem):
        return window
    if direction == "backward_weight":
        return max(1, problem.batch * math.prod(problem.out_size))
    return window * (problem.group_in_channels if direction == "forward" else problem.group_out_channels)
