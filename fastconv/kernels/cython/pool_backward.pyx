"""Gradients of pooling; pooling_backward.h says how. An item is one plane, or a few whole ones."""

from libc.stdint cimport int64_t
from libc.string cimport memset

from fastconv.kernels.cython.pool_rows cimport block_at, blocks_of, clear_rows, pad, pool_block
from fastconv.kernels.cython.pool_windows cimport (
    BY_ROWS, WHOLE, Block, Call, Pooling, PoolingRun, counted_rows, divisor, inside)
from fastconv.kernels.cython.pooling cimport collect, down, fc_cover, fill_planes, labels_of, shares
from fastconv.kernels.cython.simd cimport (
    at_least, at_most, ceil_div, fc_give_slot, fc_kernel, fc_take_slot, lanes, real)

cdef enum:
    MOST_COVERS = 64  # rows of gradients that a row of grad_input collects from


cdef struct Plane:  # what one plane is about; NULL where there is none
    const void *grads
    const int64_t *indices
    const void *values
    char *scratch


# -- By scattering ----------------------------------------------------------------------------------

cdef void clear(const Pooling *t, real *plane) noexcept nogil:
    cdef ptrdiff_t h, w
    if t.input_w == 1:
        memset(plane, 0, <size_t>(t.input_rows * t.input_columns) * sizeof(real))
        return
    for h in range(t.input_rows):
        for w in range(t.input_columns):
            plane[h * t.input_h + w * t.input_w] = 0


cdef void scatter(const Pooling *t, const Block *b, const real *grad, const int64_t *indices, ptrdiff_t indices_h,
                  ptrdiff_t indices_w, real *plane) noexcept nogil:
    """Add each gradient to the element that was the maximum; `indices` is element (0, 0) of the block's."""
    cdef ptrdiff_t j, i
    cdef int64_t index
    cdef const real *row
    cdef bint flat = t.input_w == 1
    for j in range(b.rows):
        row = grad + (b.row + j) * t.output_h + b.column * t.output_w
        for i in range(b.columns):
            index = indices[j * indices_h + i * indices_w]
            if not flat:
                index = index // t.input_columns * t.input_h + index % t.input_columns * t.input_w
            plane[index] += row[i * t.output_w]


cdef int64_t *find(const Pooling *t, const Block *wanted, const real *values, char *scratch) noexcept nogil:
    """Indices of the maxima of a block of any size, from the input: rows in scratch, `wanted.columns` apart."""
    cdef Pooling inner = t[0]
    cdef int64_t *found = <int64_t *>(scratch + t.found_offset)
    cdef ptrdiff_t before = wanted.row * wanted.columns + wanted.column
    cdef Block b
    inner.output_h, inner.output_w = wanted.columns, 1
    b.row = wanted.row
    while b.row < wanted.row + wanted.rows:
        b.rows = at_most(t.label_block, wanted.row + wanted.rows - b.row)
        b.column = wanted.column
        while b.column < wanted.column + wanted.columns:
            b.columns = at_most(t.column_block, wanted.column + wanted.columns - b.column)
            pool_block(&inner, &b, values, scratch, <real *>(scratch + t.maxima_offset) - before, found - before)
            b.column += t.column_block
        b.row += t.label_block
    return found


cdef void scatter_maxima(const Pooling *t, const Plane *at, real *plane) noexcept nogil:
    cdef Block b
    cdef ptrdiff_t block
    clear(t, plane)
    if at.indices != NULL:
        b.row, b.rows, b.column, b.columns = 0, t.rows, 0, t.columns
        scatter(t, &b, <const real *>at.grads, at.indices, t.output_h, t.output_w, plane)
        return
    for block in range(blocks_of(t, t.label_block)):
        b = block_at(t, block, t.label_block)
        scatter(t, &b, <const real *>at.grads, find(t, &b, <const real *>at.values, at.scratch), b.columns, 1, plane)


cdef void scatter_averages(const Pooling *t, const real *grad, real *plane) noexcept nogil:
    cdef ptrdiff_t p, q, r, r_end, s, s_first, s_end, top, left
    cdef real share
    cdef real *row
    clear(t, plane)
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


# -- By collecting ----------------------------------------------------------------------------------

cdef inline void covering(const Pooling *t, ptrdiff_t h, ptrdiff_t *first, ptrdiff_t *last) noexcept nogil:
    """Rows [first, last) of windows cover row h."""
    first[0] = at_most(ceil_div(h + t.low_h - t.kernel_h + 1, t.step_h), t.rows)
    last[0] = at_least(at_most((h + t.low_h) // t.step_h + 1, t.rows), first[0])


cdef bint take_rows(const Pooling *t, const Plane *at, ptrdiff_t first, ptrdiff_t last, real *grads,
                    real *labels) noexcept nogil:
    """Gradients of rows [first, last) of windows and their labels, or their shares; whether they can be collected."""
    cdef const real *source = <const real *>at.grads
    cdef const int64_t *indices = at.indices
    cdef ptrdiff_t p
    cdef Block b
    if t.maximum and indices == NULL:
        b.row, b.rows, b.column, b.columns = first, last - first, 0, t.columns
        indices = find(t, &b, <const real *>at.values, at.scratch) - first * t.columns
    if t.maximum:
        shares(source + first * t.columns, NULL, 1, t.columns, grads, last - first, t.cover_pitch)
        return not labels_of(
            grads, t.kernel_h, t.kernel_w, indices + first * t.columns, t.columns,
            (first * t.step_h - t.low_h) * t.input_columns - t.low_w, t.step_w, t.input_columns, -t.low_w, labels,
            last - first, t.cover_pitch, t.step_h * t.input_columns)
    for p in range(first, last):
        shares(source + p * t.columns, <const real *>t.counts, counted_rows(t, p), t.columns,
               grads + (p - first) * t.cover_pitch, 1, 0)
    return True


cdef void collect_rows(const Pooling *t, ptrdiff_t h, ptrdiff_t rows, ptrdiff_t first, const real *grads,
                       const real *labels, real *sums, real *plane) noexcept nogil:
    """Write rows h, h + step_h and so on, all alike; `first` is the first row of windows that is at hand."""
    cdef fc_cover covers[MOST_COVERS]
    cdef ptrdiff_t begin, end, k, j
    covering(t, h, &begin, &end)
    plane += h * t.input_columns
    if t.maximum:
        for k in range(end - begin):
            covers[k].grads = grads + (begin + k - first) * t.cover_pitch
            covers[k].labels = labels + (begin + k - first) * t.cover_pitch
            covers[k].label = (h + t.low_h - (begin + k) * t.step_h) * t.input_columns
        collect(True, t.kernel_w, t.step_w, covers, end - begin, t.low_w, plane, t.input_columns, rows, t.cover_pitch,
                t.step_h * t.input_columns)
        return
    covers[0].grads = grads + (begin - first) * t.cover_pitch
    if end - begin > 1:
        down(False, end - begin, grads + (begin - first) * t.cover_pitch, t.cover_pitch, t.columns, sums, 1, 0, 0,
             rows, t.cover_pitch, t.cover_pitch)
        covers[0].grads = sums
    collect(False, t.kernel_w, t.step_w, covers, at_most(end - begin, 1), t.low_w, plane, t.input_columns, rows,
            t.cover_pitch, t.step_h * t.input_columns)


cdef inline ptrdiff_t covered_alike(const Pooling *t, ptrdiff_t h, ptrdiff_t end) noexcept nogil:
    """How many of the rows h, h + step_h and so on, before `end`, lie in their windows alike."""
    cdef ptrdiff_t padded = h + t.low_h, last = (t.rows - 1) * t.step_h
    if padded < t.kernel_h - 1 or padded > last:
        return 1
    return (at_most(end - 1, last - t.low_h) - h) // t.step_h + 1


cdef bint collect_plane(const Pooling *t, const Plane *at, real *plane) noexcept nogil:
    """Write a plane of gradients, block by block; False where an index is not one of its window."""
    cdef real *grads = <real *>(at.scratch + t.cover_offset) + t.cover_left
    cdef real *labels = grads + t.cover_rows * t.cover_pitch  # of an average: sums of its rows
    cdef ptrdiff_t blocked, block, end, phase, h, rows, first, last, ignored
    for blocked in range(ceil_div(t.input_rows, t.grad_block)):
        block = blocked * t.grad_block
        end = at_most(block + t.grad_block, t.input_rows)
        covering(t, block, &first, &ignored)
        covering(t, end - 1, &ignored, &last)
        if not take_rows(t, at, first, at_least(last, first), grads, labels):
            return False
        for phase in range(at_most(t.step_h, end - block)):
            h = block + phase
            while h < end:
                rows = covered_alike(t, h, end)
                collect_rows(t, h, rows, first, grads, labels, labels, plane)
                h += rows * t.step_h
    return True


cdef void clear_covers(const Pooling *t, char *scratch, real *unit) noexcept nogil:
    """Gradients that add nothing, and labels that nothing matches, around what the rows of a block will hold."""
    cdef real *grads = <real *>(scratch + t.cover_offset)
    cdef ptrdiff_t n = t.cover_rows * t.cover_pitch
    pad(grads, n, 0)
    memset(grads + n, 0xff if t.maximum else 0, <size_t>n * sizeof(real))


# -- Planes -----------------------------------------------------------------------------------------

cdef void whole_planes(const Pooling *t, const Call *at, const real *unit, ptrdiff_t first,
                       ptrdiff_t last) noexcept nogil:
    cdef ptrdiff_t n = t.input_rows * t.input_columns, begin = first * lanes(unit)
    fill_planes(<const real *>at.output + begin, n, at_most(last * lanes(unit), t.planes) - begin,
                <real *>at.input + begin * n, t.divisor)


cdef void backward(real *unit, PoolingRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Pooling *t = &run.fields
    cdef const Call *call = &run.call
    cdef ptrdiff_t item, input, output
    cdef int slot
    cdef Plane at
    cdef real *plane
    if t.way == WHOLE and not t.maximum:
        whole_planes(t, call, unit, first, last)
        return
    slot = fc_take_slot(&run.slots)
    at.scratch = <char *>call.scratch + slot * t.scratch_bytes
    if t.collects:
        clear_covers(t, at.scratch, unit)
    if t.way != 0 and call.values:
        clear_rows(t, <real *>at.scratch, True)
    for item in range(first, last):
        input = item // t.channels * t.input_n + item % t.channels * t.input_c
        output = item // t.channels * t.output_n + item % t.channels * t.output_c
        plane = <real *>call.input + input
        at.grads = <const real *>call.output + output
        at.indices = <const int64_t *>call.indices + output if call.indices else NULL
        at.values = <const real *>call.values + input if call.values else NULL
        if t.collects and collect_plane(t, &at, plane):
            continue
        if t.maximum:
            scatter_maxima(t, &at, plane)
        else:
            scatter_averages(t, <const real *>at.grads, plane)
    fc_give_slot(&run.slots, slot)


cdef void backward_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    backward(<float *>NULL, <PoolingRun *>task, first, last)


cdef void backward_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    backward(<double *>NULL, <PoolingRun *>task, first, last)


#: Addresses of the range kernels.
BACKWARD = {"float32": <size_t><fc_kernel>backward_float32, "float64": <size_t><fc_kernel>backward_float64}
