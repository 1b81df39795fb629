"""PyTorch on NCHW, and on its channels-last layout: the functions that its users call, weights and all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastconv
from bench.candidates import Prepared, Refused, sum_error
from bench.data import Operands
from bench.presets import Problem


class Torch:
    """PyTorch in one memory format; converting between formats is not timed.

    NCHW arrays are shared with NumPy, so changes in place are seen; channels-last ones are copied again
    before each sample.
    """

    def __init__(self, name: str) -> None:
        import torch  # noqa: F401

        self.name, self.channels_last = name, name.endswith("channels_last")

    def prepare(self, problem: Problem, direction: str, operands: Operands) -> Prepared:
        """Bind torch's own function for `direction`; refuse what it cannot express."""
        if any(low != high for low, high in problem.pads):
            raise Refused("torch has no asymmetric padding")
        if problem.axes != 2:
            raise Refused("only two spatial axes are measured against torch")
        if problem.channels_last and not self.channels_last:
            raise Refused("the problem is channels-last: see torch_channels_last")
        sources = (operands.input, operands.weight, operands.grad_output, operands.indices)
        tensors = [None if array is None else self._tensor(problem, array, i != 1) for i, array in enumerate(sources)]

        def refresh() -> None:
            for i, (tensor, array) in enumerate(zip(tensors, sources, strict=True)):
                if tensor is not None and array is not None:
                    tensor.copy_(_plain(problem, array, i != 1))

        def results(result: Any) -> tuple[np.ndarray, ...]:
            parts = result if isinstance(result, tuple) else (result,)
            arrays = [part.numpy() for part in parts]
            images = problem.channels_last and direction != "backward_weight"
            return tuple(np.moveaxis(array, 1, -1) if images else array for array in arrays)

        return Prepared(
            self.name,
            _call(problem, self.channels_last, direction, *tensors),
            sum_error(problem, direction),
            refresh=refresh if self.channels_last else lambda: None,
            results=results,
        )

    def _tensor(self, problem: Problem, array: np.ndarray, image: bool) -> Any:
        import torch

        plain = _plain(problem, array, image)
        return plain.clone(memory_format=torch.channels_last) if self.channels_last else plain


def _plain(problem: Problem, array: np.ndarray, image: bool) -> Any:
    """A tensor on the same memory, with the channel axis second."""
    import torch

    tensor = torch.from_numpy(array)
    return tensor.permute(0, 3, 1, 2) if problem.channels_last and image else tensor


def _call(
    problem: Any, channels_last: bool, direction: str, input: Any, weight: Any, grad_output: Any, indices: Any
) -> Callable[[], Any]:
    import torch
    import torch.nn.functional as F

    def absent(shape: tuple[int, ...]) -> Any:
        """An operand of which only shape and layout matter: the layout decides which kernel runs."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(shape, dtype=getattr(torch, problem.dtype), memory_format=layout)

    stride, dilation = list(problem.stride), list(problem.dilation)
    padding = [low for low, _ in problem.pads]
    kernel = list(problem.kernel)
    if isinstance(problem, fastconv.ConvProblem):
        if direction == "forward":
            return lambda: F.conv2d(input, weight, None, stride, padding, dilation, problem.groups)
        mask = [direction == "backward_input", direction == "backward_weight", False]
        shape = (problem.batch, problem.in_channels, *problem.in_size)
        image = absent(shape) if input is None else input
        filters = absent(problem.weight_shape) if weight is None else weight
        backward = torch.ops.aten.convolution_backward.default
        groups = problem.groups
        wanted = mask.index(True)
        return lambda: backward(
            grad_output, image, filters, None, stride, padding, dilation, False, [0, 0], groups, mask
        )[wanted]
    if problem.kind == "max":
        window = (kernel, stride, padding, dilation, problem.ceil_mode)
        if direction == "forward":
            return lambda: F.max_pool2d(input, *window)
        if direction == "forward_indices":
            return lambda: torch.ops.aten.max_pool2d_with_indices.default(input, *window)
        spread = torch.ops.aten.max_pool2d_with_indices_backward.default
        return lambda: spread(grad_output, input, *window, indices)
    rest = (kernel, stride, padding, problem.ceil_mode, problem.count_include_pad, problem.divisor_override)
    if direction == "forward":
        return lambda: F.avg_pool2d(input, *rest)
    shape = (problem.batch, problem.channels, *problem.in_size)
    image = absent(shape)
    return lambda: torch.ops.aten.avg_pool2d_backward.default(grad_output, image, *rest)
