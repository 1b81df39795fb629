"""The definition, as plain loops in plain Python, to be read beside the lectures' formulas.

Forward, the cross-correlation of every input channel with its kernel, summed over the channels::

    output[n, k, p, q] = bias[k] + sum over c, r, s of  input[n, c, h, w] * weight[k, c, r, s]
    where  h = p * stride - pad + r * dilation  and  w  likewise; the input is 0 outside.

Gradient of the kernel, the cross-correlation of the input with the upstream gradient::

    grad_weight[k, c, r, s] = sum over n, p, q of  grad_output[n, k, p, q] * input[n, c, h, w]
    grad_bias[k]            = sum over n, p, q of  grad_output[n, k, p, q]

Gradient of the input, the full convolution of the upstream gradient with the kernel turned by 180 degrees::

    grad_input[n, c, h, w] = sum over k, r, s of  grad_output[n, k, p, q] * weight[k, c, r, s]
    where  p = (h + pad - r * dilation) / stride  is a whole number inside the output

(the minus sign before r is the turn). Work: N K P Q C/g R S multiply-accumulates in each direction. Memory: none.
Sums are kept in Python's floats, which are float64, and rounded once.
"""

from __future__ import annotations

import numpy as np

from fastconv.algorithm import (
    Algorithm,
    Direction,
    Epilogue,
    always_ready,
    direct_error,
    elements,
    nchw,
    no_workspace,
    unit_roundoff,
)
from fastconv.conv.volumes import with_volumes
from fastconv.machine import Machine
from fastconv.problem import ConvProblem
from fastconv.workspace import Scratch

#: Measured: one multiply-accumulate with its index arithmetic, in seconds, CPython 3.11 at 2.6 GHz.
SECONDS_PER_MAC = 250e-9


def unavailable() -> str | None:
    return None


def refusal(problem: ConvProblem, direction: Direction) -> str | None:
    return None


def error(problem: ConvProblem, direction: Direction) -> float:
    return 2 * unit_roundoff("float32") if problem.dtype == "float32" else direct_error(problem, direction)


def cost(problem: ConvProblem, direction: Direction, threads: int, machine: Machine) -> float:
    return 1e-5 + SECONDS_PER_MAC * problem.macs


def forward(
    problem: ConvProblem,
    input: np.ndarray,
    weight: np.ndarray,
    output: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    C_g, K_g = problem.group_in_channels, problem.group_out_channels
    (P, Q), (H, W), (R, S) = problem.out_size, problem.in_size, problem.kernel
    (stride_h, stride_w), (dil_h, dil_w) = problem.stride, problem.dilation
    (top, _), (left, _) = problem.pads
    input_nchw = elements(nchw(problem, input))
    weight_kcrs = elements(weight)
    output_nkpq = elements(nchw(problem, output))
    for n in range(problem.batch):
        for k in range(problem.out_channels):
            first_c = k // K_g * C_g
            for p in range(P):
                for q in range(Q):
                    total = 0.0
                    for c in range(C_g):
                        for r in range(R):
                            for s in range(S):
                                h = p * stride_h - top + r * dil_h
                                w = q * stride_w - left + s * dil_w
                                inside = 0 <= h < H and 0 <= w < W
                                x = input_nchw[n, first_c + c, h, w] if inside else 0.0
                                total += x * weight_kcrs[k, c, r, s]
                    output_nkpq[n, k, p, q] = total
    epilogue.apply(output, problem.channels_last)


def backward_input(
    problem: ConvProblem,
    grad_output: np.ndarray,
    weight: np.ndarray,
    grad_input: np.ndarray,
    epilogue: Epilogue,
    scratch: Scratch,
    threads: int,
) -> None:
    C_g, K_g = problem.group_in_channels, problem.group_out_channels
    (P, Q), (H, W), (R, S) = problem.out_size, problem.in_size, problem.kernel
    (stride_h, stride_w), (dil_h, dil_w) = problem.stride, problem.dilation
    (top, _), (left, _) = problem.pads
    grad_output_nkpq = elements(nchw(problem, grad_output))
    weight_kcrs = elements(weight)
    grad_input_nchw = elements(nchw(problem, grad_input))
    for n in range(problem.batch):
        for c in range(problem.in_channels):
            first_k = c // C_g * K_g
            for h in range(H):
                for w in range(W):
                    total = 0.0
                    for k in range(first_k, first_k + K_g):
                        for r in range(R):
                            for s in range(S):
                                p, off_grid_h = divmod(h + top - r * dil_h, stride_h)
                                q, off_grid_w = divmod(w + left - s * dil_w, stride_w)
                                if off_grid_h == off_grid_w == 0 and 0 <= p < P and 0 <= q < Q:
                                    total += grad_output_nkpq[n, k, p, q] * weight_kcrs[k, c % C_g, r, s]
                    grad_input_nchw[n, c, h, w] = total
    epilogue.apply(grad_input, problem.channels_last)


def backward_weight(
    problem: ConvProblem,
    grad_output: np.ndarray,
    input: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    C_g, K_g = problem.group_in_channels, problem.group_out_channels
    (P, Q), (H, W), (R, S) = problem.out_size, problem.in_size, problem.kernel
    (stride_h, stride_w), (dil_h, dil_w) = problem.stride, problem.dilation
    (top, _), (left, _) = problem.pads
    grad_output_nkpq = elements(nchw(problem, grad_output))
    input_nchw = elements(nchw(problem, input))
    grad_weight_kcrs = elements(grad_weight)
    for k in range(problem.out_channels):
        first_c = k // K_g * C_g
        for c in range(C_g):
            for r in range(R):
                for s in range(S):
                    total = 0.0
                    for n in range(problem.batch):
                        for p in range(P):
                            for q in range(Q):
                                h = p * stride_h - top + r * dil_h
                                w = q * stride_w - left + s * dil_w
                                inside = 0 <= h < H and 0 <= w < W
                                x = input_nchw[n, first_c + c, h, w] if inside else 0.0
                                total += grad_output_nkpq[n, k, p, q] * x
                    grad_weight_kcrs[k, c, r, s] = total
    if grad_bias is not None:
        grad_bias_k = elements(grad_bias)
        for k in range(problem.out_channels):
            total = 0.0
            for n in range(problem.batch):
                for p in range(P):
                    for q in range(Q):
                        total += grad_output_nkpq[n, k, p, q]
            grad_bias_k[k] = total


ALGORITHMS = (
    with_volumes(
        Algorithm(
            name="naive",
            unavailable=unavailable,
            refusal=refusal,
            ready=always_ready,
            error=error,
            cost=cost,
            workspace_bytes=no_workspace,
            forward=forward,
            backward_input=backward_input,
            backward_weight=backward_weight,
        )
    ),
)
