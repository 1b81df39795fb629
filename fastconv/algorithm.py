"""The contract that every implementation fulfils, and the laws it keeps.

An algorithm is a frozen value: a name, what it can do, what it costs, and one function per direction. Its file
(conv/NAME.py or pool/NAME.py) ends with its ALGORITHMS, one value or more, and one line in the family's
__init__.py registers it.

Laws
----
1. Every element of the result is written, and none is read before it is written.
2. Inputs are never modified, never kept, and never aliased by the result.
3. Nothing beyond the granted scratch is allocated.
4. Arithmetic is IEEE but for the contraction of a*b+c; NaN and infinity reach exactly what they touch.
5. The same bits for every thread count (im2col_gemm leans on BLAS, and says so).
6. The GIL is released while a kernel runs, and Ctrl-C is seen within 0.3 s (naive is plain Python: exempt).
7. A named algorithm runs or raises with its reason; only "auto" chooses.

Arrays reach an algorithm C-contiguous, aligned, of the problem's dtype, shapes and layout; results likewise.
Padding zeros belong to the input: they count in forward and in grad_weight (0 * inf = NaN). In grad_input nothing
outside grad_output exists: positions beyond its border, and the gaps of a stride, contribute nothing.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastconv.errors import InvalidProblem
from fastconv.problem import ConvProblem, PoolProblem, Problem


class Direction(enum.Enum):
    """Which of the three contractions of (input, weight, output) is computed."""

    FORWARD = "forward"
    BACKWARD_INPUT = "backward_input"
    BACKWARD_WEIGHT = "backward_weight"

    __hash__ = object.__hash__  # enum's own is a Python function; a direction is in the key of every plan

    def __str__(self) -> str:
        return self.value


class Epilogue(NamedTuple):
    """What happens to a finished result before it is stored: + bias of its channel, then the activation."""

    bias: np.ndarray | None = None
    activation: str | None = None

    def apply(self, result: np.ndarray, channels_last: bool) -> None:
        """Apply it in place, for algorithms that do not fuse it."""
        if self.bias is not None:
            with np.errstate(all="ignore"):
                result += self.bias if channels_last else self.bias.reshape(-1, *(1,) * (result.ndim - 2))
        if self.activation == "relu":
            np.maximum(result, 0, out=result)


class PreparedWeight(NamedTuple):
    """What `Algorithm.prepare_weight` made of a weight, for its forward pass to take in the weight's place."""

    memory: np.ndarray


#: Activations that every algorithm takes in its epilogue.
FUSED_ACTIVATIONS = ("relu",)


@dataclass(frozen=True)
class Algorithm:
    """One implementation of a family ("conv" or "pool"); see the laws above.

    Attributes
    ----------
    name : str
        What users write for ``algorithm=``.
    unavailable : () -> str or None
        Why it cannot run on this installation.
    refusal : (problem, direction) -> str or None
        Why it cannot compute this correctly; speed is no reason.
    ready : (problem, direction) -> bool
        True when nothing would be compiled by a call now.
    error : (problem, direction) -> float
        Expected max|error| / max|result| on independent N(0, 1) data.
    cost : (problem, direction, threads, machine) -> seconds
        Estimate; a pure function, read by the planner alone.
    workspace_bytes : (problem, direction, threads) -> (least, best)
        Scratch it needs at least, and can use at best.
    forward
        conv: (problem, input, weight, output, epilogue, scratch, threads).
        pool: (problem, input, output, indices or None, scratch, threads).
    backward_input
        conv: (problem, grad_output, weight, grad_input, epilogue, scratch, threads).
        pool: (problem, grad_output, input or None, indices or None, grad_input, scratch, threads); a maximum gets
        the indices or the input, an average neither.
    checks_indices : bool
        Whether its backward_input of a two-dimensional maximum raises `InvalidProblem` for an index outside its plane,
        and nobody need look at all of them first.
    backward_weight
        conv: (problem, grad_output, input, grad_weight, grad_bias or None, scratch, threads); None for pools.
    prepare_weight : (problem, direction, weight, threads) -> PreparedWeight, optional
        Transforms or packs a weight once, for problems that differ in their batch alone; None where it would not pay.
    group : str
        A name for several algorithms together, of which the best is meant.
    transforms : bool
        Whether it computes another sum of products than the definition's, at another error: a tolerance of 0 admits it
        only by name.
    """

    name: str
    unavailable: Callable[[], str | None]
    refusal: Callable[[Any, Direction], str | None]
    ready: Callable[[Any, Direction], bool]
    error: Callable[[Any, Direction], float]
    cost: Callable[[Any, Direction, int, Any], float]
    workspace_bytes: Callable[[Any, Direction, int], tuple[int, int]]
    forward: Callable[..., None]
    backward_input: Callable[..., None]
    backward_weight: Callable[..., None] | None = None
    checks_indices: bool = False
    prepare_weight: Callable[[Any, Direction, np.ndarray, int], PreparedWeight] | None = None
    group: str = ""
    transforms: bool = False

    def direction(self, problem: Problem, direction: Direction) -> Callable[..., None]:
        """The function that computes `direction` of `problem`."""
        function: Callable[..., None] | None = getattr(self, direction.value)
        if function is None:
            raise ValueError(f"{self.name} has no {direction}")
        return function.of(problem) if isinstance(function, ByAxes) else function


@dataclass(frozen=True)
class ByAxes:
    """A function of a problem and more: one for two spatial axes, one for three."""

    flat: Callable[..., Any]
    volume: Callable[..., Any]

    def of(self, problem: Problem) -> Callable[..., Any]:
        return self.flat if problem.axes == 2 else self.volume

    def __call__(self, problem: Problem, *rest: Any) -> Any:
        return self.of(problem)(problem, *rest)


def nchw(problem: Problem, array: np.ndarray) -> np.ndarray:
    """View of an image array with the channel axis second, whatever the problem's layout."""
    return np.moveaxis(array, -1, 1) if problem.channels_last else array


def elements(array: np.ndarray) -> Any:
    """The elements of `array` as Python numbers, indexed alike: a memoryview.

    3 times as fast as indexing the array, and IEEE arithmetic without NumPy's warnings.
    """
    return memoryview(array)  # type: ignore[arg-type]


def check_indices_inside(indices: np.ndarray, size: tuple[int, ...]) -> None:
    """Raise `InvalidProblem` where a flat index is outside a plane of `size`."""
    plane = math.prod(size)
    if indices.size and not (indices.min() >= 0 and indices.max() < plane):
        raise InvalidProblem(f"indices must be in [0, {plane}), got {indices.min()} to {indices.max()}")


def always_ready(problem: Problem, direction: Direction) -> bool:
    """Nothing is ever compiled: for algorithms built ahead of time, or not at all."""
    return True


def no_workspace(problem: Problem, direction: Direction, threads: int) -> tuple[int, int]:
    """No scratch at all."""
    return 0, 0


def reduction_length(problem: ConvProblem, direction: Direction) -> int:
    """Products summed into one element of the result."""
    window = math.prod(problem.kernel)
    if direction is Direction.FORWARD:
        return problem.group_in_channels * window
    if direction is Direction.BACKWARD_INPUT:
        return problem.group_out_channels * window
    return problem.batch * math.prod(problem.out_size)


def unit_roundoff(dtype: str) -> float:
    """Largest relative error of one rounding."""
    return 2.0**-24 if dtype == "float32" else 2.0**-53


def direct_error(problem: ConvProblem | PoolProblem, direction: Direction) -> float:
    """Expected max|error| / max|result| of sums of m products, kept in the problem's dtype, in any fixed order.

    Each addition rounds a partial sum that grows as a random walk, so the error grows like the result times
    sqrt(m) * u. Measured over sums of 9 to 25,088 fused multiply-adds: 0.65 to 1.1 of this.
    """
    u = unit_roundoff(problem.dtype)
    if isinstance(problem, PoolProblem):
        chosen = problem.kind == "max" and direction is Direction.FORWARD  # nothing is summed
        return 0.0 if chosen else u * (1 + 0.6 * math.sqrt(math.prod(problem.kernel)))
    return u * (1 + 0.6 * math.sqrt(reduction_length(problem, direction)))
