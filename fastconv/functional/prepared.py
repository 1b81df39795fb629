"""`prepare_conv2d`: a convolution whose weight is packed or transformed once, for many inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fastconv.algorithm import Direction
from fastconv.errors import InvalidProblem
from fastconv.functional import arguments
from fastconv.functional.arguments import IntOrInts, Padding
from fastconv.functional.conv import Activation, check_activation, check_bias, compute
from fastconv.functional.conv_call import ConvCall, conv_call
from fastconv.planner import implementation, plan


class PreparedConv2d:
    """A convolution that holds its weight; made by `prepare_conv2d`, called with an input.

    Attributes
    ----------
    algorithm : str
        The algorithm that every call takes.
    nbytes : int
        Bytes of memory that it holds: weight and bias, packed or not.
    """

    def __init__(
        self,
        weight: np.ndarray,
        bias: np.ndarray | None,
        activation: Activation,
        input_shape: tuple[int, ...],
        rest: tuple[IntOrInts, Padding, IntOrInts, int, str, str | None],
        algorithm: str | None,
    ) -> None:
        self._dtype = weight.dtype
        self._bias = None if bias is None else bias.copy()
        self._activation = activation
        self._rest = rest
        self._weight_shape = weight.shape
        self._image_shape = input_shape[1:]
        problem = self._call(input_shape).problem
        settled = plan(problem, Direction.FORWARD, algorithm, arguments.is_half(weight))
        self.algorithm = settled.algorithm
        prepare = implementation(settled).prepare_weight
        taken = arguments.plain(weight).reshape(problem.weight_shape)
        self._weight = prepare(problem, Direction.FORWARD, taken, settled.threads) if prepare else taken.copy()
        held = self._weight if isinstance(self._weight, np.ndarray) else self._weight.memory
        self.nbytes = held.nbytes + (0 if self._bias is None else self._bias.nbytes)

    def _call(self, input_shape: tuple[int, ...]) -> ConvCall:
        dtype = arguments.compute_dtype(np.empty(0, self._dtype))
        return conv_call(2, dtype, input_shape, self._weight_shape, *self._rest)

    def __call__(self, input: ArrayLike, *, out: np.ndarray | None = None) -> np.ndarray:
        """Convolve `input`, as `conv2d` does.

        Parameters
        ----------
        input : array_like
            (N, C, H, W), or (C, H, W) without a batch, of the shape that was prepared for but for N, and its dtype.
        out : ndarray, optional
            Where to put the result.

        Returns
        -------
        ndarray

        Raises
        ------
        TypeError, InvalidProblem
            For an input of another dtype or shape.
        """
        given = arguments.as_array("input", input, self._dtype, "weight")
        images, batched = arguments.check_image("input", given, 2)
        if images.shape[1:] != self._image_shape:
            raise InvalidProblem(
                f"input must be of the prepared shape (any, {str(self._image_shape)[1:]}, got {given.shape}"
            )
        call = self._call(images.shape)
        if out is not None:
            shape = call.output_shape if batched else call.output_shape[1:]
            arguments.check_out(out, shape, given.dtype, [given])
        settled = plan(call.problem, Direction.FORWARD, self.algorithm)
        inputs = [given, self._bias]
        return compute(
            call, settled, given, images, batched, self._weight, self._bias, self._activation, out, inputs
        )  # fmt: skip


def prepare_conv2d(
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    input_shape: Sequence[int],
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    activation: Activation = None,
    data_format: str | None = None,
    algorithm: str | None = None,
) -> PreparedConv2d:
    """Pack or transform a weight once, and convolve many inputs with it.

    For inference: where an algorithm has work to do on a weight alone (Winograd transforms it), no call repeats it.

    Parameters
    ----------
    weight : array_like
        (K, C / groups, R, S); it is copied.
    bias : array_like, optional
        (K,); it is copied.
    input_shape : sequence of int
        (N, C, H, W), or NHWC by `data_format`. C, H and W are fixed; N is the batch for which the algorithm is
        chosen, and may differ from call to call.
    stride, padding, dilation, groups, padding_mode, activation, data_format, algorithm
        As in `conv2d`.

    Returns
    -------
    PreparedConv2d
        Called with an input.

    Raises
    ------
    TypeError, ValueError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np, fastconv
    >>> edges = fastconv.prepare_conv2d(np.ones((4, 3, 3, 3), np.float32), input_shape=(1, 3, 8, 8), padding=1)
    >>> edges(np.zeros((5, 3, 8, 8), np.float32)).shape
    (5, 4, 8, 8)
    """
    weights = arguments.as_array("weight", weight)
    if weights.ndim != 4:
        raise InvalidProblem(f"weight must have 4 dimensions (K, C / groups, R, S), got shape {weights.shape}")
    shape = arguments.check_size("input_shape", input_shape, 4)
    rest = stride, padding, dilation, groups, padding_mode, data_format
    return PreparedConv2d(
        weights, check_bias(bias, weights), check_activation(activation), shape, rest, algorithm
    )  # fmt: skip
