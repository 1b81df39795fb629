"""Gradients of pooling; pooling_backward.h says how. An item is one plane, or a few whole ones; of channels-last images
some channels of one.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from fastconv.kernels.cython.pool_channels cimport spread_channels
from fastconv.kernels.cython.pool_rows cimport around_rows, block_at, blocks_of, clear_rows, pad, pool_block
from fastconv.kernels.cython.pool_windows cimport (
    BY_CHANNELS, BY_WINDOW, WHOLE, Block, Call, Pooling, PoolingRun, counted_rows, divisor, inside)
from fastconv.kernels.cython.pooling cimport collect, down, fill_planes, scatter, scatter_abreast, shares
from fastconv.kernels.cython.simd cimport (
    at_least, at_most, ceil_div, fc_give_slot, fc_kernel, fc_take_slot, lanes, real)

# -- Of a maximum -----------------------------------------------------------------------------------
# Rows of grad_input are cleared just before the first window that reaches them, while they go into L1 anyway. An index
# at or beyond the rows that are clear is not one of its window: then the plane is cleared as a whole, and done again.

cdef void clear_plane(const Pooling *t, real *plane) noexcept nogil:
    cdef ptrdiff_t h, w
    if t.input_w == 1:
        memset(plane, 0, <size_t>(t.input_rows * t.input_columns) * sizeof(real))
        return
    for h in range(t.input_rows):
        for w in range(t.input_columns):
            plane[h * t.input_h + w * t.input_w] = 0


cdef bint scatter_apart(const Pooling *t, const Block *b, const real *grad, const int64_t *indices,
                        ptrdiff_t indices_h, ptrdiff_t indices_w, real *plane) noexcept nogil:
    """One by one at any steps; `indices` is element (0, 0) of the block's. False for an index outside the plane."""
    cdef ptrdiff_t j, i
    cdef int64_t index, size = t.input_rows * t.input_columns
    cdef const real *row
    for j in range(b.rows):
        row = grad + (b.row + j) * t.output_h + b.column * t.output_w
        for i in range(b.columns):
            index = indices[j * indices_h + i * indices_w]
            if not 0 <= index < size:
                return False
            plane[index // t.input_columns * t.input_h + index % t.input_columns * t.input_w] += row[i * t.output_w]
    return True


cdef bint scatter_given(const Pooling *t, const real *grad, const int64_t *indices, real *plane) noexcept nogil:
    """Write a plane of gradients from the indices; False where one is outside."""
    cdef ptrdiff_t p = 0, rows, clear = 0, reached
    cdef Block b
    if t.input_w == 1:
        while p < t.rows:
            rows = at_most(t.grad_block, t.rows - p)
            reached = at_most(at_least((p + rows - 1) * t.step_h - t.low_h + (t.kernel_h - 1) * t.dilation_h + 1, clear),
                              t.input_rows)
            memset(plane + clear * t.input_columns, 0, <size_t>((reached - clear) * t.input_columns) * sizeof(real))
            clear = reached
            if not scatter(grad + p * t.columns, indices + p * t.columns, rows * t.columns,
                           <size_t>(clear * t.input_columns), plane):
                break
            p += rows
        else:
            memset(plane + clear * t.input_columns, 0,
                   <size_t>((t.input_rows - clear) * t.input_columns) * sizeof(real))
            return True
    clear_plane(t, plane)
    b.row, b.rows, b.column, b.columns = 0, t.rows, 0, t.columns
    return scatter_apart(t, &b, grad, indices, t.output_h, t.output_w, plane)


cdef bint scatter_whole(const Pooling *t, const Call *call, const real *unit, ptrdiff_t first,
                        ptrdiff_t last) noexcept nogil:
    """Planes that lie one behind the other, cleared as a whole, small ones together; False where an index is outside."""
    cdef ptrdiff_t size = t.input_rows * t.input_columns, outputs = t.rows * t.columns, item = first, count, end
    cdef bint inside = True
    cdef const real *grad
    cdef const int64_t *indices
    cdef real *plane
    while item < last:
        count = at_most(t.clear_planes, last - item)
        memset(<real *>call.input + item * size, 0, <size_t>(count * size) * sizeof(real))
        end = item + count
        while item < end:
            grad = <const real *>call.output + item * outputs
            indices = <const int64_t *>call.indices + item * outputs
            plane = <real *>call.input + item * size
            if t.abreast and item + 4 <= end:
                inside &= scatter_abreast(grad, indices, outputs, <size_t>size, plane)
                item += 4
            else:
                inside &= scatter(grad, indices, outputs, <size_t>size, plane)
                item += 1
    return inside


cdef void scatter_found(const Pooling *t, const real *grad, const real *values, char *scratch,
                        real *plane) noexcept nogil:
    """The same from the input: the indices of a block are found in scratch."""
    cdef Pooling inner = t[0]
    cdef int64_t *found = <int64_t *>(scratch + t.found_offset)
    cdef real *maxima = <real *>(scratch + t.maxima_offset)
    cdef ptrdiff_t block, before
    cdef Block b
    inner.output_h, inner.output_w = t.column_block, 1
    clear_plane(t, plane)
    for block in range(blocks_of(t, t.label_block)):
        b = block_at(t, block, t.label_block)
        before = b.row * t.column_block + b.column
        pool_block(&inner, &b, values, scratch, maxima - before, found - before)
        scatter_apart(t, &b, grad, found, t.column_block, 1, plane)


# -- Of an average ----------------------------------------------------------------------------------

cdef void average_by_window(const Pooling *t, const real *grad, real *plane) noexcept nogil:
    cdef ptrdiff_t p, q, r, r_end, s, s_first, s_end, top, left
    cdef real share
    cdef real *row
    clear_plane(t, plane)
    for p in range(t.rows):
        top = p * t.step_h - t.low_h
        for q in range(t.columns):
            left = q * t.step_w - t.low_w
            share = <real>(<double>grad[p * t.output_h + q * t.output_w] / divisor(t, p, q))
            inside(top, t.kernel_h, 1, t.input_rows, &r, &r_end)
            inside(left, t.kernel_w, 1, t.input_columns, &s_first, &s_end)
            for r in range(r, r_end):
                row = plane + (top + r) * t.input_h + left * t.input_w
                for s in range(s_first, s_end):
                    row[s * t.input_w] += share


cdef inline void covering(const Pooling *t, ptrdiff_t h, ptrdiff_t *first, ptrdiff_t *last) noexcept nogil:
    """Rows [first, last) of windows cover row h."""
    first[0] = at_most(ceil_div(h + t.low_h - t.kernel_h + 1, t.step_h), t.rows)
    last[0] = at_least(at_most((h + t.low_h) // t.step_h + 1, t.rows), first[0])


cdef inline ptrdiff_t covered_alike(const Pooling *t, ptrdiff_t h, ptrdiff_t end) noexcept nogil:
    """How many of the rows from h on, before `end`, lie in their windows alike; for a stride of 1."""
    cdef ptrdiff_t padded = h + t.low_h, last = t.rows - 1
    if padded < t.kernel_h - 1 or padded > last:
        return 1
    return at_most(end - 1, last - t.low_h) - h + 1


cdef void collect_block(const Pooling *t, const real *grad, ptrdiff_t block, ptrdiff_t end, char *scratch,
                        real *plane) noexcept nogil:
    """Write rows [block, end) of a plane of gradients."""
    cdef real *held = <real *>(scratch + t.cover_offset) + t.cover_left
    cdef real *sums = held + t.cover_rows * t.cover_pitch
    cdef const real *source
    cdef ptrdiff_t first, last, begin, covers, p, rows, copies, h
    covering(t, block, &first, &last)
    covering(t, end - 1, &begin, &last)
    p = first
    while p < last:
        rows = 1
        if p * t.step_h >= t.low_h:  # the windows of these rows are wholly inside, and divided alike
            rows = at_least(at_most(last - 1, (t.input_rows - t.kernel_h + t.low_h) // t.step_h) - p + 1, 1)
        shares(grad + p * t.columns, <const real *>t.counts, counted_rows(t, p), t.columns,
               held + (p - first) * t.cover_pitch, rows, t.cover_pitch)
        p += rows
    h = block
    while h < end:  # as rows follow each other in memory
        covering(t, h, &begin, &last)
        covers, rows, copies = last - begin, 1, 1
        source = held + (begin - first) * t.cover_pitch
        if covers == 0:
            pad(plane + h * t.input_columns, t.input_columns, 0)
        else:
            if t.step_h == 1:
                rows = covered_alike(t, h, end)
            elif t.kernel_h == t.step_h:  # all rows of a window are one
                copies = at_most((begin + 1) * t.step_h - t.low_h, end) - h
                if copies == t.step_h:
                    rows = at_least(at_most((end - h) // copies, t.rows - begin), 1)
            if covers > 1:
                down(False, covers, source, t.cover_pitch, t.columns, sums, 1, 0, 0, rows, t.cover_pitch, t.cover_pitch)
                source = sums
            collect(t.kernel_w, t.step_w, source, t.low_w, plane + h * t.input_columns, t.input_columns, rows,
                    t.cover_pitch, copies)
        h += rows * copies


cdef void average_backward(const Pooling *t, const real *grad, char *scratch, real *plane) noexcept nogil:
    cdef ptrdiff_t block
    if t.around_alike:
        for block in range(ceil_div(t.rows, t.row_block)):
            around_rows(t, grad, block * t.row_block, at_most((block + 1) * t.row_block, t.rows), plane)
        return
    if not t.collects:
        average_by_window(t, grad, plane)
        return
    for block in range(ceil_div(t.input_rows, t.grad_block)):
        collect_block(t, grad, block * t.grad_block, at_most((block + 1) * t.grad_block, t.input_rows), scratch, plane)


# -- Planes -----------------------------------------------------------------------------------------

cdef void whole_planes(const Pooling *t, const Call *at, const real *unit, ptrdiff_t first,
                       ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t n = t.input_rows * t.input_columns, begin = first * lanes(unit)
    fill_planes(<const real *>at.output + begin, n, at_most(last * lanes(unit), t.planes) - begin,
                <real *>at.input + begin * n, t.divisor)


cdef void backward(real *unit, PoolingRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Pooling *t = &run.fields
    cdef const Call *call = &run.call
    cdef ptrdiff_t item, input, output, blocks
    cdef int slot
    cdef const real *grad
    cdef real *plane
    cdef char *scratch
    if t.way == WHOLE and not t.maximum:
        whole_planes(t, call, unit, first, last)
        return
    if t.way == BY_CHANNELS:
        blocks = ceil_div(t.channels, t.channel_block)
        for item in range(first, last):
            if not spread_channels(t, call, unit, item // blocks, item % blocks * t.channel_block):
                (<int64_t *>call.outside)[0] = 1
        return
    if call.indices and t.input_w == 1 and t.grad_block == t.rows:
        if not scatter_whole(t, call, unit, first, last):
            (<int64_t *>call.outside)[0] = 1
        return
    slot = fc_take_slot(&run.slots)
    scratch = <char *>call.scratch + slot * t.scratch_bytes
    if t.collects:
        pad(<real *>(scratch + t.cover_offset), 2 * t.cover_rows * t.cover_pitch, 0)
    if t.way != BY_WINDOW and call.values:
        clear_rows(t, <real *>scratch, True)
    for item in range(first, last):
        input = item // t.channels * t.input_n + item % t.channels * t.input_c
        output = item // t.channels * t.output_n + item % t.channels * t.output_c
        plane = <real *>call.input + input
        grad = <const real *>call.output + output
        if not t.maximum:
            average_backward(t, grad, scratch, plane)
        elif not call.indices:
            scatter_found(t, grad, <const real *>call.values + input, scratch, plane)
        elif not scatter_given(t, grad, <const int64_t *>call.indices + output, plane):
            (<int64_t *>call.outside)[0] = 1
    fc_give_slot(&run.slots, slot)


cdef void backward_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    backward(<float *>NULL, <PoolingRun *>task, first, last)


cdef void backward_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    backward(<double *>NULL, <PoolingRun *>task, first, last)


#: Addresses of the range kernels.
BACKWARD = {"float32": <size_t><fc_kernel>backward_float32, "float64": <size_t><fc_kernel>backward_float64}
