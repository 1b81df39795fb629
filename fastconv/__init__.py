"""fastconv: competing implementations of convolution and pooling on a CPU, behind one NumPy API.

The way of a call, three hops:

    conv2d(input, weight, ...)         functional/        arrays in; builds the problem, once, and validates it, once
      -> plan(problem, direction)      planner.py         cached; picks an algorithm, or explains why it cannot
        -> algorithm.forward(...)      conv/NAME.py       packs, splits the work, hands items to threads.run
          -> kernel(task, first, last) kernels/           pure loops; no validation, no Python objects

The rooms:

    functional/      the public functions          problem.py       what is to be computed, and its text form
    planner.py       who computes it, and why      algorithm.py     the contract of an implementation, and its laws
    conv/, pool/     the implementations           kernels/         their loops, in Numba and Cython
    threads.py       the only owner of threads     workspace.py     scratch memory
    settings.py      use() and configure()         machine.py       what this machine is and can
"""

from fastconv.errors import InvalidProblem, UnsupportedProblem
from fastconv.explanation import algorithms
from fastconv.functional import (
    avg_pool1d,
    avg_pool1d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool3d,
    avg_pool3d_backward,
    conv1d,
    conv1d_backward,
    conv1d_input,
    conv1d_weight,
    conv2d,
    conv2d_backward,
    conv2d_input,
    conv2d_weight,
    conv3d,
    conv3d_backward,
    conv3d_input,
    conv3d_weight,
    conv_transpose1d,
    conv_transpose1d_backward,
    conv_transpose2d,
    conv_transpose2d_backward,
    conv_transpose3d,
    conv_transpose3d_backward,
    explain,
    local_response_norm,
    local_response_norm_backward,
    max_pool1d,
    max_pool1d_backward,
    max_pool2d,
    max_pool2d_backward,
    max_pool3d,
    max_pool3d_backward,
    output_size,
    plan_conv2d,
)
from fastconv.machine import machine
from fastconv.problem import ConvProblem, PoolProblem
from fastconv.problem_text import parse_problem
from fastconv.settings import configure, get_num_threads, set_num_threads, use
from fastconv.show_config import show_config
from fastconv.workspace import empty_cache, memory_stats

__version__ = "0.1.0"

__all__ = [
    "ConvProblem",
    "InvalidProblem",
    "PoolProblem",
    "UnsupportedProblem",
    "algorithms",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool3d",
    "avg_pool3d_backward",
    "configure",
    "conv1d",
    "conv1d_backward",
    "conv1d_input",
    "conv1d_weight",
    "conv2d",
    "conv2d_backward",
    "conv2d_input",
    "conv2d_weight",
    "conv3d",
    "conv3d_backward",
    "conv3d_input",
    "conv3d_weight",
    "conv_transpose1d",
    "conv_transpose1d_backward",
    "conv_transpose2d",
    "conv_transpose2d_backward",
    "conv_transpose3d",
    "conv_transpose3d_backward",
    "empty_cache",
    "explain",
    "get_num_threads",
    "local_response_norm",
    "local_response_norm_backward",
    "machine",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool3d",
    "max_pool3d_backward",
    "memory_stats",
    "output_size",
    "parse_problem",
    "plan_conv2d",
    "set_num_threads",
    "show_config",
    "use",
]
