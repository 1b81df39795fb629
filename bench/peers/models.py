"""What libraries for inference share: a model of one convolution, whose weight is a constant of it.

Such a model packs or transforms its weight when it is loaded, as its users have it, so it is to be compared with
`fastconv.prepare_conv2d`. It is built anew before each sample, for the weight has changed; that is not timed.
"""

from __future__ import annotations

import numpy as np

import fastconv
from bench.candidates import Refused
from bench.presets import Problem


def convolution(library: str, problem: Problem, direction: str) -> fastconv.ConvProblem:
    """`problem`, if a model of one convolution computes it; else `Refused`."""
    if direction != "forward":
        raise Refused(f"{library} runs models forward only")
    if not isinstance(problem, fastconv.ConvProblem) or problem.axes != 2:
        raise Refused(f"only conv2d is measured against {library}")
    if problem.channels_last:
        raise Refused(f"{library} is measured on NCHW only")
    if problem.dtype != "float32":
        raise Refused(f"{library} computes in float32 only")
    return problem


def onnx_model(problem: fastconv.ConvProblem, weight_kcrs: np.ndarray) -> bytes:
    """A graph of one Conv node from "x" to "y", serialised."""
    from onnx import TensorProto, helper, numpy_helper

    (top, bottom), (left, right) = problem.pads
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], kernel_shape=problem.kernel, strides=problem.stride, dilations=problem.dilation,
        pads=[top, left, bottom, right], group=problem.groups,
    )  # fmt: skip
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", problem.input_shape), ("y", problem.output_shape))
    )
    graph = helper.make_graph([node], "convolution", [x], [y], [numpy_helper.from_array(weight_kcrs, "w")])
    # The oldest versions that say all of this: every release of the last years reads them.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    serialised: bytes = model.SerializeToString()
    return serialised
