"""OpenVINO: the same ONNX model, compiled for the least latency in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastconv
from bench.candidates import Prepared, Rebuilt, sum_error
from bench.data import Operands
from bench.peers.models import convolution, onnx_model
from bench.presets import Problem


class OpenVino:
    """An inference request on the CPU; input and result stay where NumPy has them."""

    def __init__(self, name: str) -> None:
        import onnx  # noqa: F401
        import openvino

        self.name = name
        self._core: Any = openvino.Core()

    def prepare(self, problem: Problem, direction: str, operands: Operands) -> Prepared:
        """Bind input and result to a request, which is made when the weight is known."""
        conv = convolution(self.name, problem, direction)
        x: Any = operands
        result = np.empty(conv.output_shape, np.float32)

        def build() -> Any:
            import openvino

            request = self._compiled(onnx_model(conv, x.weight)).create_infer_request()
            request.set_input_tensor(openvino.Tensor(x.input, shared_memory=True))
            request.set_output_tensor(openvino.Tensor(result, shared_memory=True))
            return lambda: request.infer(share_outputs=True)

        model = Rebuilt(build)
        return Prepared(
            self.name, model, sum_error(problem, direction), refresh=model.refresh, rebuilt=True,
            results=lambda _: (result,),
        )  # fmt: skip

    def _compiled(self, model: bytes) -> Any:
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": fastconv.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the CPU has it
            "ENABLE_CPU_PINNING": False,
        }
        return self._core.compile_model(self._core.read_model(model), "CPU", options)
