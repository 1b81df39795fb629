"""grad_weight, grad_bias, and what grad_input needs where a weight is not finite.

grad_weight is a product of grad_output with the windows of the input: for 128 positions at a time the windows are
copied, padding zeros included, one per row; so the long axis of `contract` runs over (c, r, s) and its terms over
positions, in an order that the shape alone decides.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import int64, njit, prange

from fastconv.kernels.numba.contraction import LEAD, contract
from fastconv.kernels.numba.options import INNER, PARALLEL, RANGE
from fastconv.kernels.numba.runs import fill_zeros

#: Positions whose windows are copied at once.
POSITIONS = 128

#: Long sums are sums of sums over so many positions: one running float32 would lose three digits over 400,000.
CHUNK = 8 * POSITIONS


class Task(NamedTuple):
    """The integers of one call. Strides count elements; terms are (c, r, s)."""

    slots: int
    # work items: groups x blocks of terms x blocks of output channels
    terms: int
    term_block: int
    term_blocks: int
    channels: int  # output channels of one group
    channel_block: int
    channel_blocks: int
    # positions n p q [first, last), of which this call is the first, or adds to what the others left
    first: int
    last: int
    fresh: int
    out_rows: int
    out_cols: int
    stride_h: int
    stride_w: int
    top: int
    left: int
    height: int
    width: int
    reach_h: int  # of a window: dilation * (kernel - 1)
    reach_w: int
    output_n: int
    output_k: int
    output_p: int
    output_q: int
    input_n: int
    input_g: int
    input_h: int
    input_w: int


@njit(**INNER)
def copy_window(task, target, input, base, h, w, tap_h, tap_w, tap_at):
    """The window that begins at (h, w), zeros outside the input."""
    if h >= 0 and w >= 0 and h + task.reach_h < task.height and w + task.reach_w < task.width:
        for x in range(tap_at.size):
            target[x] = input[base + tap_at[x]]
    else:
        for x in range(tap_at.size):
            row, col = h + tap_h[x], w + tap_w[x]
            if 0 <= row < task.height and 0 <= col < task.width:
                target[x] = input[base + tap_at[x]]
            else:
                target[x] = 0


@njit(**RANGE)
def gradient(
    task, grad_output, input, grad_weight, tap_h, tap_w, tap_at, window_at, outputs_at, buffers, slot, first, last, step
):
    """Items first, first + step, ... below `last`, in the buffers of `slot`; outputs_at has room for POSITIONS."""
    output_at = outputs_at[slot]
    sums, windows = buffers[slot, : task.channel_block * LEAD], buffers[slot, task.channel_block * LEAD :]
    pitch = window_at[1]
    plane = task.out_rows * task.out_cols
    for item in range(first, last, step):
        rest, channel_block = divmod(item, task.channel_blocks)
        g, term_block = divmod(rest, task.term_blocks)
        begin = term_block * task.term_block
        end = min(begin + task.term_block, task.terms)
        k = channel_block * task.channel_block
        rows = min(task.channel_block, task.channels - k)
        length = (end - begin + 15) // 16 * 16
        k += g * task.channels
        fill_zeros(windows)
        for chunk in range(task.first, task.last, CHUNK):
            fill_zeros(sums)
            for block in range(chunk, min(chunk + CHUNK, task.last), POSITIONS):
                count = min(POSITIONS, task.last - block)
                for u in range(count):
                    n, position = divmod(block + u, plane)
                    p, q = divmod(position, task.out_cols)
                    output_at[u] = n * task.output_n + p * task.output_p + q * task.output_q
                    h, w = p * task.stride_h - task.top, q * task.stride_w - task.left
                    base = n * task.input_n + g * task.input_g + h * task.input_h + w * task.input_w
                    target = windows[u * pitch : u * pitch + end - begin]
                    copy_window(task, target, input, base, h, w, tap_h[begin:end], tap_w[begin:end], tap_at[begin:end])
                contract(
                    sums, rows, windows, window_at, grad_output, output_at, count, k * task.output_k, task.output_k,
                    length,
                )  # fmt: skip
            fresh = task.fresh and chunk == task.first
            for row in range(rows):
                at = (k + row) * task.terms + begin
                for x in range(end - begin):
                    before = grad_weight.dtype.type(0) if fresh else grad_weight[at + x]
                    grad_weight[at + x] = before + sums[row * LEAD + x]


@njit(**PARALLEL)
def gradient_parallel(
    task, grad_output, input, grad_weight, tap_h, tap_w, tap_at, window_at, outputs_at, buffers, first, last
):
    for index in prange(task.slots):
        slot = int64(index)  # prange counts in uint64, which would compile the kernel again
        gradient(
            task, grad_output, input, grad_weight, tap_h, tap_w, tap_at, window_at, outputs_at, buffers, slot,
            first + slot, last, task.slots,
        )  # fmt: skip


@njit(**RANGE)
def sum_bias(grad_output, grad_bias, shape, strides, slots, slot, first, last, step):
    """grad_bias[k] of the channels first, first + step, ... below `last`, in double.

    Four sums, so that one addition need not wait for the other.
    """
    images, rows, cols = shape
    stride_n, stride_k, stride_p, stride_q = strides
    for k in range(first, last, step):
        a = b = c = d = 0.0
        for n in range(images):
            for p in range(rows):
                base = n * stride_n + k * stride_k + p * stride_p
                for q in range(0, cols - 3, 4):
                    a += grad_output[base + q * stride_q]
                    b += grad_output[base + (q + 1) * stride_q]
                    c += grad_output[base + (q + 2) * stride_q]
                    d += grad_output[base + (q + 3) * stride_q]
                for q in range(cols - cols % 4, cols):
                    a += grad_output[base + q * stride_q]
        grad_bias[k] = (a + b) + (c + d)


@njit(**PARALLEL)
def sum_bias_parallel(grad_output, grad_bias, shape, strides, slots, first, last):
    for index in prange(slots):
        slot = int64(index)  # prange counts in uint64, which would compile the kernel again
        sum_bias(grad_output, grad_bias, shape, strides, slots, slot, first + slot, last, slots)


@njit(**RANGE)
def count_not_finite(array):
    """How many elements are infinite or NaN."""
    count = 0
    for x in array:
        count += x - x != 0
    return count


class Gather(NamedTuple):
    """The integers of `gather`."""

    in_channels: int  # of one group
    out_channels: int  # of one group
    groups: int
    height: int
    width: int
    out_rows: int
    out_cols: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    top: int
    left: int
    output_n: int
    output_k: int
    output_p: int
    output_q: int
    input_n: int
    input_c: int
    input_h: int
    input_w: int


@njit(**RANGE)
def gather(t, grad_output, weight, grad_input, slot, first, last, step):
    """grad_input of rows n c h, by the definition: only what exists is multiplied.

    For weights that are not finite: a padding zero times such a weight would be NaN.
    """
    for item in range(first, last, step):
        channel, h = divmod(item, t.height)
        n, channel = divmod(channel, t.groups * t.in_channels)
        g, c = divmod(channel, t.in_channels)
        for w in range(t.width):
            total = 0.0
            for k in range(g * t.out_channels, (g + 1) * t.out_channels):
                for r in range(t.kernel_h):
                    p, off_h = divmod(h + t.top - r * t.dilation_h, t.stride_h)
                    if off_h != 0 or p < 0 or p >= t.out_rows:
                        continue
                    for s in range(t.kernel_w):
                        q, off_w = divmod(w + t.left - s * t.dilation_w, t.stride_w)
                        if off_w == 0 and 0 <= q < t.out_cols:
                            y = grad_output[n * t.output_n + k * t.output_k + p * t.output_p + q * t.output_q]
                            total += y * weight[((k * t.in_channels + c) * t.kernel_h + r) * t.kernel_w + s]
            grad_input[n * t.input_n + channel * t.input_c + h * t.input_h + w * t.input_w] = total
