"""All weights of a range of destination channels, packed before direct.pyx reads them many times; see weights.pxd."""

from fastconv.kernels.cython.correlation cimport Correlation, CorrelationRun
from fastconv.kernels.cython.simd cimport at_most, ceil_div, fc_kernel, lanes, not_finite, real
from fastconv.kernels.cython.weights cimport pack_chunk, weight_row


cdef void pack(real *unit, const Correlation *t, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is one range of blocks of destination channels."""
    cdef ptrdiff_t size = t.tap_count * t.group_source * t.weight_width, item, group, block, i, channel, channels, row
    cdef ptrdiff_t blocks = ceil_div(t.group_dest, 2 * lanes(unit)), ranges = ceil_div(blocks, t.range_blocks)
    cdef real *to
    cdef bint odd
    for item in range(first, last):
        group = (item + t.call.first_range) // ranges
        block = (item + t.call.first_range) % ranges * t.range_blocks
        odd = False
        for i in range(at_most(t.range_blocks, blocks - block)):
            to = <real *>t.call.packed + (item * t.range_blocks + i) * size
            row = weight_row(unit, t, block + i)
            channel = 0
            while channel < t.group_source:
                channels = at_most(t.channel_block, t.group_source - channel)
                pack_chunk(t, group, block + i, channel, channels, to + channel * t.tap_count * row)
                channel += channels
            if t.call.not_finite:
                odd |= not_finite(to, t.tap_count * t.group_source * row)
        if t.call.not_finite:
            (<ptrdiff_t *>t.call.not_finite)[item] = odd


cdef void pack_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    pack(<float *>NULL, &(<const CorrelationRun *>task).fields, first, last)


cdef void pack_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    pack(<double *>NULL, &(<const CorrelationRun *>task).fields, first, last)


#: Addresses of the range kernels, which take the task of direct.pyx's CORRELATE.
PACK = {"float32": <size_t><fc_kernel>pack_float32, "float64": <size_t><fc_kernel>pack_float64}
