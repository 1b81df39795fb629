"""grad_weight by the dots tile: products of rows of input and grad_output, summed in vectors of pixels.

For one tap, few input channels or few output channels: where gradient.pyx would spend its time on transposes. The
schedule is that of the forward pass, whose output grad_output has the shape of: the same buffer, in which tap and
channel are a constant distance, or the input itself. grad_output is read where it lies.

An item is a chunk of input channels by a range of output channels by a share of the blocks of pixels. The first share
sums in grad_weight itself, in chunks of a block; the others beside it, to be added up at the end, in order.
"""

from libc.string cimport memset

from fastconv.kernels.cython.arrays cimport address
from fastconv.kernels.cython.correlation cimport Block, Correlation, CorrelationRun, gathered, locate
from fastconv.kernels.cython.simd cimport (
    FC_DOTS_KS, FC_DOTS_LS, add_into, at_most, ceil_div, copy_strided, dots, fc_give_slot, fc_kernel, fc_take_slot,
    real, sum_run)

cdef struct Dots:
    CorrelationRun forward  # dest is grad_output
    size_t grad_weight, grad_bias, sums, bias_sums  # sums of the shares but the first; float64, of all; 0: no bias
    ptrdiff_t first_block, last_block  # blocks of each share that this run adds
    ptrdiff_t shares, share_blocks, blocks  # blocks of each share but the last, and in all
    ptrdiff_t out_channels, out_block  # output channels of an item
    ptrdiff_t weights  # elements of grad_weight


cdef const real *grad_rows(const Correlation *t, const Block *b, ptrdiff_t channel, ptrdiff_t channels, real *copy,
                           ptrdiff_t *steps) noexcept nogil:
    """Some channels of the block's grad_output, with steps of channel, image and row: where it lies, or a copy."""
    cdef const real *grad = (<const real *>t.call.dest + b.image * t.dest_n + channel * t.dest_c + b.row * t.dest_h
                             + b.column * t.dest_w)
    cdef ptrdiff_t n, k, j
    steps[0] = t.dest_c
    steps[1] = t.dest_n
    steps[2] = t.dest_h
    if t.dest_w == 1:
        return grad
    steps[2] = b.columns
    steps[1] = steps[2] * b.rows
    steps[0] = steps[1] * b.images
    for k in range(channels):
        for n in range(b.images):
            for j in range(b.rows):
                copy_strided(copy + k * steps[0] + n * steps[1] + j * steps[2],
                             grad + k * t.dest_c + n * t.dest_n + j * t.dest_h, t.dest_w, b.columns)
    return copy


cdef void add_bias(const Block *b, const real *grad, const ptrdiff_t *steps, ptrdiff_t channels,
                   double *bias) noexcept nogil:
    cdef ptrdiff_t k, n, j
    for k in range(channels):
        for n in range(b.images):
            for j in range(b.rows):
                bias[k] += sum_run(grad + k * steps[0] + n * steps[1] + j * steps[2], b.columns)


cdef void add_block(const Dots *d, const Block *b, ptrdiff_t channel, ptrdiff_t channels, ptrdiff_t first,
                    ptrdiff_t last, real *buffer, real *copy, real *sums, double *bias, int add) noexcept nogil:
    """Add a block's products for output channels [first, last) of the group to sums [k][channel][tap]."""
    cdef const Correlation *t = &d.forward.fields
    cdef const ptrdiff_t *places = <const ptrdiff_t *>t.offsets
    cdef const real *source = gathered(t, b, channel, channels, buffer)
    cdef const real *grad
    cdef ptrdiff_t k_step = t.group_source * t.tap_count, terms = channels * t.tap_count, k = first, l, ks, ls
    cdef ptrdiff_t rows = b.rows, columns = b.columns
    cdef ptrdiff_t[3] steps
    while k < last:
        ks = at_most(FC_DOTS_KS, last - k)
        grad = grad_rows(t, b, b.group * t.group_dest + k, ks, copy, steps)
        if bias != NULL:
            add_bias(b, grad, steps, ks, bias + k)
        rows = b.rows
        columns = b.columns
        if t.pitch == columns and steps[2] == columns:  # rows follow each other without a gap
            columns *= rows
            rows = 1
        l = 0
        while l < terms:
            ls = at_most(FC_DOTS_LS, terms - l)
            dots(ks, ls, grad, steps[0], steps[1], steps[2], source, places + l, t.buffer_n, t.pitch, b.images, rows,
                 columns, sums + k * k_step + channel * t.tap_count + l, k_step, add)
            l += ls
        k += ks


cdef void run_dots(real *unit, Dots *d, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Correlation *t = &d.forward.fields
    cdef int slot = fc_take_slot(&d.forward.slots)
    cdef char *mine = <char *>t.call.scratch + slot * t.scratch_bytes
    cdef ptrdiff_t chunks = ceil_div(t.group_source, t.channel_block), ranges = ceil_div(t.group_dest, d.out_block)
    cdef ptrdiff_t item, rest, share, channel, channels, from_k, to_k, group, block, begin, end, group_weights
    cdef real *sums
    cdef double *bias
    cdef Block b
    for item in range(first, last):
        share = item % d.shares
        rest = item // d.shares
        channel = rest % chunks * t.channel_block
        channels = at_most(t.channel_block, t.group_source - channel)
        rest //= chunks
        from_k = rest % ranges * d.out_block
        to_k = at_most(from_k + d.out_block, t.group_dest)
        group = rest // ranges
        group_weights = t.group_dest * t.group_source * t.tap_count
        sums = <real *>d.grad_weight if share == 0 else <real *>d.sums + (share - 1) * d.weights
        sums += group * group_weights
        bias = NULL
        if d.bias_sums and channel == 0:
            bias = <double *>d.bias_sums + share * d.out_channels + group * t.group_dest
            if d.first_block == 0:
                memset(bias + from_k, 0, <size_t>(to_k - from_k) * sizeof(double))
        begin = share * d.share_blocks
        end = at_most(begin + d.share_blocks, d.blocks)
        for block in range(begin + d.first_block, at_most(begin + d.last_block, end)):
            b = locate(unit, t, block)
            b.group = group
            add_block(d, &b, channel, channels, from_k, to_k, <real *>mine, <real *>(mine + t.sums_offset), sums, bias,
                      block > begin)
    fc_give_slot(&d.forward.slots, slot)


cdef void finish(real *unit, const Dots *d, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """Add up the shares of output channels [first, last)."""
    cdef ptrdiff_t row = d.weights // d.out_channels, share, k
    cdef double bias
    for share in range(1, d.shares):
        add_into(<real *>d.grad_weight + first * row, <real *>d.sums + (share - 1) * d.weights + first * row,
                 (last - first) * row)
    if d.bias_sums:
        for k in range(first, last):
            bias = 0
            for share in range(d.shares):
                bias += (<double *>d.bias_sums)[share * d.out_channels + k]
            (<real *>d.grad_bias)[k] = <real>bias


cdef void dots_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    run_dots(<float *>NULL, <Dots *>task, first, last)


cdef void dots_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    run_dots(<double *>NULL, <Dots *>task, first, last)


cdef void finish_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    finish(<float *>NULL, <const Dots *>task, first, last)


cdef void finish_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    finish(<double *>NULL, <const Dots *>task, first, last)


#: Addresses of the range kernels; both take the same task.
DOTS = {"float32": <size_t><fc_kernel>dots_float32, "float64": <size_t><fc_kernel>dots_float64}
FINISH = {"float32": <size_t><fc_kernel>finish_float32, "float64": <size_t><fc_kernel>finish_float64}


def dots_call(grad_weight, grad_bias, size_t sums, size_t bias_sums, ptrdiff_t first_block, ptrdiff_t last_block,
              ptrdiff_t shares, ptrdiff_t share_blocks, ptrdiff_t blocks, ptrdiff_t out_block):
    """Pack what the task has after that of CORRELATE; `grad_bias` is an array or None."""
    cdef Dots d
    memset(&d, 0, sizeof(d))
    d.grad_weight = address(grad_weight)
    d.grad_bias = address(grad_bias)
    d.sums = sums
    d.bias_sums = 0 if grad_bias is None else bias_sums
    d.first_block = first_block
    d.last_block = last_block
    d.shares = shares
    d.share_blocks = share_blocks
    d.blocks = blocks
    d.out_channels = grad_weight.shape[0]
    d.out_block = out_block
    d.weights = grad_weight.size
    return (<char *>&d)[sizeof(CorrelationRun):sizeof(d)]
