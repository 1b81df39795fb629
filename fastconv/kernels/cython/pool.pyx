"""Pooling forward; pooling.h says how. An item is one block of one plane, or a few whole planes; of channels-last images
some columns of one row.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from fastconv.kernels.cython.arrays cimport address
from fastconv.kernels.cython.pool_channels cimport pool_channels
from fastconv.kernels.cython.pool_rows cimport block_at, blocks_of, clear_rows, pool_block
from fastconv.kernels.cython.pool_windows cimport BY_CHANNELS, BY_WINDOW, WHOLE, Block, Call, Pooling, PoolingRun
from fastconv.kernels.cython.pooling cimport pool_planes
from fastconv.kernels.cython.simd cimport (
    FC_BYTES, at_most, fc_give_slot, fc_kernel, fc_slots, fc_take_slot, lanes, real)


cdef void whole_planes(const Pooling *t, const Call *at, const real *unit, ptrdiff_t first,
                       ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t n = t.input_rows * t.input_columns, begin = first * lanes(unit)
    pool_planes(t.maximum, <const real *>at.input + begin * n, n, at_most(last * lanes(unit), t.planes) - begin,
                <real *>at.output + begin, t.divisor)


cdef void forward(real *unit, PoolingRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Pooling *t = &run.fields
    cdef ptrdiff_t row_block = t.label_block if run.call.indices else t.row_block
    cdef ptrdiff_t blocks = blocks_of(t, row_block), item, plane, input, output
    cdef int64_t *indices = NULL
    cdef char *scratch
    cdef int slot
    cdef Block b
    if t.way == WHOLE and not run.call.indices:
        whole_planes(t, &run.call, unit, first, last)
        return
    if t.way == BY_CHANNELS:
        pool_channels(t, &run.call, unit, first, last)
        return
    slot = fc_take_slot(&run.slots)
    scratch = <char *>run.call.scratch + slot * t.scratch_bytes
    if t.way != BY_WINDOW:
        clear_rows(t, <real *>scratch, run.call.indices != 0)
    for item in range(first, last):
        plane = item // blocks
        input = plane // t.channels * t.input_n + plane % t.channels * t.input_c
        output = plane // t.channels * t.output_n + plane % t.channels * t.output_c
        b = block_at(t, item % blocks, row_block)
        if run.call.indices:
            indices = <int64_t *>run.call.indices + output
        pool_block(t, &b, <const real *>run.call.input + input, scratch, <real *>run.call.output + output, indices)
    fc_give_slot(&run.slots, slot)


cdef void forward_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    forward(<float *>NULL, <PoolingRun *>task, first, last)


cdef void forward_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    forward(<double *>NULL, <PoolingRun *>task, first, last)


#: Bytes of a vector.
VECTOR_BYTES = FC_BYTES
#: Addresses of the range kernels.
FORWARD = {"float32": <size_t><fc_kernel>forward_float32, "float64": <size_t><fc_kernel>forward_float64}


def pooling_task(**fields):
    """What all calls of a problem share of their task: every field of `Pooling`, by name, and free slots."""
    cdef Pooling task = fields
    cdef fc_slots slots
    memset(&slots, 0, sizeof(slots))
    return (<char *>&task)[:sizeof(task)] + (<char *>&slots)[:sizeof(slots)]


def pooling_call(input, output, indices, values, outside, size_t scratch):
    """What belongs to one call: the head of its task, before that of `pooling_task`."""
    cdef Call call
    call.input = address(input)
    call.output = address(output)
    call.indices = address(indices)
    call.values = address(values)
    call.outside = address(outside)
    call.scratch = scratch
    return (<char *>&call)[:sizeof(call)]
