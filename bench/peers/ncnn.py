"""ncnn: one convolution layer in float32, Winograd and packed layouts allowed, its weight transformed when loaded."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastconv
from bench.candidates import Prepared, Rebuilt, sum_error
from bench.data import Operands
from bench.peers.models import convolution
from bench.presets import Problem

#: Its transforms err 0.7 to 2.0 times what is expected of plain sums, over the layers of the preset planner.
WINOGRAD_ERROR = 2

#: What would make it compute in less than float32 where the CPU can.
_HALVES = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage")


class Ncnn:
    """A net of one layer; input and result are ncnn's, copied outside of what is timed."""

    def __init__(self, name: str) -> None:
        import ncnn

        self.name = name
        # 1 to 15 % over malloc. They must outlive what was taken from them: results, for nothing else is kept.
        self._allocators = ncnn.UnlockedPoolAllocator(), ncnn.PoolAllocator()

    def prepare(self, problem: Problem, direction: str, operands: Operands) -> Prepared:
        """The net is made when the weight is known."""
        import ncnn

        conv = convolution(self.name, problem, direction)
        x: Any = operands

        def build() -> Any:
            net, image = _Net(conv, x.weight, self._allocators), ncnn.Mat(x.input, batch_index=0)
            return lambda: net.run(image)

        model = Rebuilt(build)
        transforms = conv.kernel == (3, 3) and conv.stride == conv.dilation == (1, 1)
        error = sum_error(problem, direction) * (WINOGRAD_ERROR if transforms else 1)
        return Prepared(self.name, model, error, refresh=model.refresh, rebuilt=True, results=_arrays)


class _Net:
    """A net, and the memory of its weight, which it leans on without keeping it alive."""

    def __init__(self, problem: fastconv.ConvProblem, weight_kcrs: np.ndarray, allocators: tuple[Any, Any]) -> None:
        import ncnn

        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = fastconv.get_num_threads()
        options.openmp_blocktime = 0
        options.use_winograd_convolution = options.use_sgemm_convolution = options.use_packing_layout = True
        for name in _HALVES:
            setattr(options, name, False)
        self._weight = bytes(4) + weight_kcrs.tobytes()  # the flag 0: plain float32 follows
        self._net.load_param_mem(_text(problem))
        self._net.load_model_mem(self._weight)
        options.blob_allocator, options.workspace_allocator = allocators  # now: weights stay longer than the pools

    def run(self, image: Any) -> Any:
        extractor = self._net.create_extractor()
        extractor.input("x", image)
        return extractor.extract("y")[1]


def _text(problem: fastconv.ConvProblem) -> str:
    """The net in ncnn's own text form: see Convolution and ConvolutionDepthWise in its docs/developer-guide."""
    (top, bottom), (left, right) = problem.pads
    (kernel_h, kernel_w), (stride_h, stride_w) = problem.kernel, problem.stride
    dilation_h, dilation_w = problem.dilation
    numbers = {
        0: problem.out_channels, 1: kernel_w, 11: kernel_h, 2: dilation_w, 12: dilation_h, 3: stride_w, 13: stride_h,
        4: left, 15: right, 14: top, 16: bottom, 5: 0, 6: int(np.prod(problem.weight_shape)),
    }  # fmt: skip
    kind = "Convolution"
    if problem.groups > 1:
        kind, numbers[7] = "ConvolutionDepthWise", problem.groups
    settings = " ".join(f"{key}={value}" for key, value in numbers.items())
    return f"7767517\n2 2\nInput input 0 1 x\n{kind} conv 1 1 x y {settings}\n"


def _arrays(result: Any) -> tuple[np.ndarray, ...]:
    return (np.stack([np.array(result.batch(image)) for image in range(result.n)]),)
