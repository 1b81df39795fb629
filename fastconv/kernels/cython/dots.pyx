"""grad_weight of groups with few output channels (depthwise): products of two planes, summed in vectors of pixels.

Its schedule is that of the forward pass, whose output grad_output has the shape of. An item is one input channel; it
goes through blocks of pixels in order. The sum of a block is kept in vectors, sums of blocks in float64.
"""

from libc.string cimport memset

from fastconv.kernels.cython.correlation cimport Block, Correlation, CorrelationRun, fill, locate
from fastconv.kernels.cython.simd cimport (
    at_most, ceil_div, copy_strided, dots, fc_give_slot, fc_kernel, fc_take_slot, real, sum_run)

cdef struct Dots:
    CorrelationRun forward  # dest is grad_output, and packed and bias the sums, in float64
    ptrdiff_t first_block, last_block  # blocks of pixels that this run adds


cdef void add_block(const Correlation *t, const Block *b, ptrdiff_t channel, real *buffer, real *rows, double *sums,
                    double *bias) noexcept nogil:
    """Add one block's products to sums [k][channel][tap] and its gradients to bias [k]."""
    cdef ptrdiff_t plane = t.column_group_count * t.buffer_row_count * t.pitch, n, k, j, step
    cdef const real *grad
    fill(t, b, channel, 1, buffer)
    for n in range(b.images):
        for k in range(t.group_dest):
            grad = (<const real *>t.call.dest + (b.image + n) * t.dest_n + (b.group * t.group_dest + k) * t.dest_c
                    + b.row * t.dest_h + b.column * t.dest_w)
            step = t.dest_h
            if t.dest_w != 1:
                for j in range(b.rows):
                    copy_strided(rows + j * b.columns, grad + j * t.dest_h, t.dest_w, b.columns)
                grad = rows
                step = b.columns
            dots(buffer + n * t.channel_block * plane, <const ptrdiff_t *>t.offsets, t.tap_count, t.pitch, grad, step,
                 b.rows, b.columns, sums + (k * t.group_source + channel) * t.tap_count)
            if bias != NULL:
                for j in range(b.rows):
                    bias[k] += sum_run(grad + j * step, b.columns)


cdef void run_dots(real *unit, Dots *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Correlation *t = &run.forward.fields
    cdef int slot = fc_take_slot(&run.forward.slots)
    cdef char *mine = <char *>t.call.scratch + slot * t.scratch_bytes
    cdef ptrdiff_t blocks = (ceil_div(t.images, t.image_block) * ceil_div(t.rows, t.row_block)
                             * ceil_div(t.columns, t.column_block))
    cdef ptrdiff_t item, block, group, channel, k
    cdef double *sums
    cdef double *bias
    cdef Block b
    for item in range(first, last):
        group = item // t.group_source
        channel = item % t.group_source
        sums = <double *>t.call.packed + group * t.group_dest * t.group_source * t.tap_count
        bias = <double *>t.call.bias + group * t.group_dest if t.call.bias and channel == 0 else NULL
        if run.first_block == 0:
            for k in range(t.group_dest):
                memset(sums + (k * t.group_source + channel) * t.tap_count, 0,
                       <size_t>t.tap_count * sizeof(double))
                if bias != NULL:
                    bias[k] = 0
        for block in range(run.first_block, run.last_block):
            b = locate(unit, t, group * blocks + block)
            add_block(t, &b, channel, <real *>mine, <real *>(mine + t.sums_offset), sums, bias)
    fc_give_slot(&run.forward.slots, slot)


cdef void dots_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    run_dots(<float *>NULL, <Dots *>task, first, last)


cdef void dots_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    run_dots(<double *>NULL, <Dots *>task, first, last)


#: Addresses of the range kernels.
DOTS = {"float32": <size_t><fc_kernel>dots_float32, "float64": <size_t><fc_kernel>dots_float64}


def dots_range(ptrdiff_t first_block, ptrdiff_t last_block):
    """Pack what the task of DOTS has after that of CORRELATE, whose `packed` and `bias` are the sums."""
    cdef Dots run
    run.first_block = first_block
    run.last_block = last_block
    return (<char *>&run)[sizeof(CorrelationRun):sizeof(run)]
