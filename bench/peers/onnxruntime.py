"""ONNX Runtime: one Conv node, every graph optimisation, its arrays bound once."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastconv
from bench.candidates import Prepared, Rebuilt, sum_error
from bench.data import Operands
from bench.peers.models import convolution, onnx_model
from bench.presets import Problem


class OnnxRuntime:
    """A session on the CPU; input and result stay where NumPy has them."""

    def __init__(self, name: str) -> None:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401

        self.name = name

    def prepare(self, problem: Problem, direction: str, operands: Operands) -> Prepared:
        """Bind input and result to a session, which is made when the weight is known."""
        conv = convolution(self.name, problem, direction)
        x: Any = operands
        result = np.empty(conv.output_shape, np.float32)

        def build() -> Any:
            session = _session(onnx_model(conv, x.weight))
            binding = session.io_binding()
            binding.bind_input("x", "cpu", 0, np.float32, x.input.shape, x.input.ctypes.data)
            binding.bind_output("y", "cpu", 0, np.float32, result.shape, result.ctypes.data)
            return lambda: session.run_with_iobinding(binding)

        model = Rebuilt(build)
        return Prepared(
            self.name, model, sum_error(problem, direction), refresh=model.refresh, rebuilt=True,
            results=lambda _: (result,),
        )  # fmt: skip


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = fastconv.get_num_threads()
    options.inter_op_num_threads = 1
    # Its idle threads would eat the cores of whoever is timed next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
