"""Maximum and average over windows, forward and backward: for every tap, one loop over a run of outputs.

A window is visited tap by tap in row-major order, so that the first of equal elements wins, and the first NaN; taps in
the padding are skipped by ranges, never by a test inside the loop. At most BLOCK outputs of a row are under way.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import int64, njit, prange

from fastconv.kernels.numba.options import INNER, PARALLEL, RANGE
from fastconv.kernels.numba.runs import fill_zeros, inside

#: Outputs of one row done at once: the largest so far and their indices stay in the nearest cache.
BLOCK = 512


class Task(NamedTuple):
    """The integers of one call. Strides count elements."""

    slots: int
    channels: int
    bands: int  # work items of one plane
    band: int  # rows of one work item: of outputs forward, of grad_input for the average's gradient
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
    bottom: int
    right: int
    count_padding: int
    divisor: int  # 0: the size of the window
    image_n: int
    image_c: int
    image_h: int
    image_w: int
    output_n: int
    output_c: int
    output_p: int
    output_q: int


@njit(**INNER)
def nearest(start, step, kernel, size):
    """The first position of a window inside [0, size), else the element nearest to its start."""
    if start < 0:
        tap = -(start // step)
        return start + tap * step if tap < kernel and start + tap * step < size else 0
    return min(start, size - 1)


@njit(**INNER)
def columns_inside(start, outputs, stride, dilation, kernel, size):
    """The range of a window's columns that lie inside the input in some of `outputs` windows, the first at `start`."""
    first, _ = inside(start + (outputs - 1) * stride, dilation, kernel, size)
    _, last = inside(start, dilation, kernel, size)
    return first, last


@njit(**INNER)
def keep_larger(largest, run, jump):
    """largest[v] = max(largest[v], run[v * jump]); NaN stays."""
    for v in range(largest.size):
        x = run[v * jump]
        largest[v] = x if (x > largest[v]) | (x != x) else largest[v]


@njit(**INNER)
def keep_first_larger(largest, indices, run, jump, index, step):
    """The same, and where it was: the first of equals, the first NaN."""
    for v in range(largest.size):
        x, best = run[v * jump], largest[v]
        wins = (x > best) | ((x != x) & (best == best))
        largest[v] = x if wins else best
        indices[v] = index + v * step if wins else indices[v]


@njit(**INNER)
def maxima(task, image, base, p, q, largest, indices):
    """Maxima of the windows (p, q ...), and their flat indices unless there is no room for them."""
    count = largest.size
    top, left = p * task.stride_h - task.top, q * task.stride_w - task.left
    for v in range(count):
        largest[v] = -np.inf
    if indices.size:
        row = nearest(top, task.dilation_h, task.kernel_h, task.height) * task.width
        for v in range(count):
            indices[v] = row + nearest(left + v * task.stride_w, task.dilation_w, task.kernel_w, task.width)
    first_r, last_r = inside(top, task.dilation_h, task.kernel_h, task.height)
    first_s, last_s = columns_inside(left, count, task.stride_w, task.dilation_w, task.kernel_w, task.width)
    jump = task.stride_w * task.image_w if count > 1 else 1
    for r in range(first_r, last_r):
        h = top + r * task.dilation_h
        for s in range(first_s, last_s):
            start = left + s * task.dilation_w
            first, last = inside(start, task.stride_w, count, task.width)
            if last <= first:
                continue
            w = start + first * task.stride_w
            run = image[base + h * task.image_h + w * task.image_w :]
            index = h * task.width + w
            if indices.size == 0:
                if jump == 1:
                    keep_larger(largest[first:last], run, 1)
                elif jump == 2:
                    keep_larger(largest[first:last], run, 2)
                else:
                    keep_larger(largest[first:last], run, jump)
            elif jump == 1:
                keep_first_larger(largest[first:last], indices[first:last], run, 1, index, task.stride_w)
            else:
                keep_first_larger(largest[first:last], indices[first:last], run, jump, index, task.stride_w)


@njit(**RANGE)
def max_forward(task, image, output, indices, largest, places, slot, first, last, step):
    """Items: planes x bands of output rows."""
    for item in range(first, last, step):
        plane, band = divmod(item, task.bands)
        n, c = divmod(plane, task.channels)
        base = n * task.image_n + c * task.image_c
        for p in range(band * task.band, min((band + 1) * task.band, task.out_rows)):
            at = n * task.output_n + c * task.output_c + p * task.output_p
            for q in range(0, task.out_cols, BLOCK):
                count = min(BLOCK, task.out_cols - q)
                best = largest[slot, :count]
                place = places[slot, : count if indices.size else 0]
                maxima(task, image, base, p, q, best, place)
                for v in range(count):
                    output[at + (q + v) * task.output_q] = best[v]
                for v in range(place.size):
                    indices[at + (q + v) * task.output_q] = place[v]


@njit(**PARALLEL)
def max_forward_parallel(task, image, output, indices, largest, places, first, last):
    for index in prange(task.slots):
        slot = int64(index)
        max_forward(task, image, output, indices, largest, places, slot, first + slot, last, task.slots)


@njit(**INNER)
def clear_plane(task, image, base):
    for h in range(task.height):
        for w in range(task.width):
            image[base + h * task.image_h + w * task.image_w] = 0


@njit(**RANGE)
def max_backward(task, grad_output, image, indices, grad_image, largest, places, slot, first, last, step):
    """Items: planes. Each gradient goes to its index; without indices, to where the maximum of the image is."""
    dense = task.image_w == 1 and task.image_h == task.width
    for item in range(first, last, step):
        n, c = divmod(item, task.channels)
        base = n * task.image_n + c * task.image_c
        clear_plane(task, grad_image, base)
        for p in range(task.out_rows):
            at = n * task.output_n + c * task.output_c + p * task.output_p
            for q in range(0, task.out_cols, BLOCK):
                count = min(BLOCK, task.out_cols - q)
                place = places[slot, :count]
                if indices.size:
                    for v in range(count):
                        place[v] = indices[at + (q + v) * task.output_q]
                else:
                    maxima(task, image, base, p, q, largest[slot, :count], place)
                for v in range(count):
                    to = place[v]
                    if not dense:
                        h, w = divmod(to, task.width)
                        to = h * task.image_h + w * task.image_w
                    grad_image[base + to] += grad_output[at + (q + v) * task.output_q]


@njit(**PARALLEL)
def max_backward_parallel(task, grad_output, image, indices, grad_image, largest, places, first, last):
    for index in prange(task.slots):
        slot = int64(index)
        max_backward(
            task, grad_output, image, indices, grad_image, largest, places, slot, first + slot, last, task.slots
        )


@njit(**INNER)
def counted(start, kernel, size, high, with_padding):
    """Elements of a window that count along one axis: clipped to the padded extent, or to the input."""
    end = min(start + kernel, size + high)
    if not with_padding:
        start, end = max(start, 0), min(end, size)
    return max(end - start, 0)


@njit(**INNER)
def divisor(task, rows, q):
    """What the window of column q is divided by, if `rows` of its rows count."""
    if task.divisor != 0:
        return task.divisor
    start = q * task.stride_w - task.left
    return max(rows * counted(start, task.kernel_w, task.width, task.right, task.count_padding), 1)


@njit(**INNER)
def rows_counted(task, p):
    return counted(p * task.stride_h - task.top, task.kernel_h, task.height, task.bottom, task.count_padding)


@njit(**INNER)
def add_run(sums, run, jump):
    for v in range(sums.size):
        sums[v] += run[v * jump]


@njit(**RANGE)
def avg_forward(task, image, output, sums, slot, first, last, step):
    """Items: planes x bands of output rows. Sums are double."""
    for item in range(first, last, step):
        plane, band = divmod(item, task.bands)
        n, c = divmod(plane, task.channels)
        base = n * task.image_n + c * task.image_c
        for p in range(band * task.band, min((band + 1) * task.band, task.out_rows)):
            top, rows = p * task.stride_h - task.top, rows_counted(task, p)
            first_r, last_r = inside(top, 1, task.kernel_h, task.height)
            for q in range(0, task.out_cols, BLOCK):
                total = sums[slot, : min(BLOCK, task.out_cols - q)]
                fill_zeros(total)
                jump = task.stride_w * task.image_w if total.size > 1 else 1
                left = q * task.stride_w - task.left
                first_s, last_s = columns_inside(left, total.size, task.stride_w, 1, task.kernel_w, task.width)
                for r in range(first_r, last_r):
                    for s in range(first_s, last_s):
                        start = left + s
                        begin, end = inside(start, task.stride_w, total.size, task.width)
                        if end > begin:
                            w = start + begin * task.stride_w
                            run = image[base + (top + r) * task.image_h + w * task.image_w :]
                            if jump == 1:
                                add_run(total[begin:end], run, 1)
                            else:
                                add_run(total[begin:end], run, jump)
                at = n * task.output_n + c * task.output_c + p * task.output_p
                for v in range(total.size):
                    output[at + (q + v) * task.output_q] = total[v] / divisor(task, rows, q + v)


@njit(**PARALLEL)
def avg_forward_parallel(task, image, output, sums, first, last):
    for index in prange(task.slots):
        slot = int64(index)
        avg_forward(task, image, output, sums, slot, first + slot, last, task.slots)


@njit(**INNER)
def covering(position, kernel, stride, count):
    """The range of windows, of `count`, that cover a padded position."""
    return max(0, -((kernel - 1 - position) // stride)), min(count, position // stride + 1)


@njit(**RANGE)
def avg_backward(task, grad_output, grad_image, sums, slot, first, last, step):
    """Items: planes x bands of input rows, each gathered from the windows that cover it."""
    for item in range(first, last, step):
        plane, band = divmod(item, task.bands)
        n, c = divmod(plane, task.channels)
        at = n * task.output_n + c * task.output_c
        for h in range(band * task.band, min((band + 1) * task.band, task.height)):
            base = n * task.image_n + c * task.image_c + h * task.image_h
            first_p, last_p = covering(h + task.top, task.kernel_h, task.stride_h, task.out_rows)
            for block in range(0, task.width, BLOCK):
                total = sums[slot, : min(BLOCK, task.width - block)]
                fill_zeros(total)
                for p in range(first_p, last_p):
                    rows = rows_counted(task, p)
                    first_q, _ = covering(block + task.left, task.kernel_w, task.stride_w, task.out_cols)
                    _, last_q = covering(
                        block + total.size - 1 + task.left, task.kernel_w, task.stride_w, task.out_cols
                    )
                    for q in range(first_q, last_q):
                        share = grad_output[at + p * task.output_p + q * task.output_q] / divisor(task, rows, q)
                        start = q * task.stride_w - task.left - block
                        for w in range(max(start, 0), min(start + task.kernel_w, total.size)):
                            total[w] += share
                for v in range(total.size):
                    grad_image[base + (block + v) * task.image_w] = total[v]


@njit(**PARALLEL)
def avg_backward_parallel(task, grad_output, grad_image, sums, first, last):
    for index in prange(task.slots):
        slot = int64(index)
        avg_backward(task, grad_output, grad_image, sums, slot, first + slot, last, task.slots)
