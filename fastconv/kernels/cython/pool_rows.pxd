"""A block of outputs of one plane, forward, in the stages of pooling.h."""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t

from fastconv.kernels.cython.pool_windows cimport (
    BY_WINDOW, Block, Pooling, counted_rows, inside, pool_by_window, start_of_window)
from fastconv.kernels.cython.pooling cimport across, across_labels, around, around_found, down, down_labels
from fastconv.kernels.cython.simd cimport at_least, at_most, ceil_div, real


cdef inline void pad(real *buffer, ptrdiff_t n, real value) noexcept nogil:
    cdef ptrdiff_t i
    for i in range(n):
        buffer[i] = value


cdef inline void clear_rows(const Pooling *t, real *buffer, bint labelled) noexcept nogil:
    """Padding in every padded row of a block; what is inside is overwritten, block after block."""
    cdef ptrdiff_t rows = t.row_block
    if labelled:
        rows = (t.label_block - 1) * t.step_h + (t.kernel_h - 1) * t.dilation_h + 1
    pad(buffer, rows * t.step_w * t.pitch, -INFINITY if t.maximum else 0)


cdef inline Block block_at(const Pooling *t, ptrdiff_t block, ptrdiff_t row_block) noexcept nogil:
    cdef Block b
    cdef ptrdiff_t across = ceil_div(t.columns, t.column_block)
    b.column = block % across * t.column_block
    b.columns = at_most(t.column_block, t.columns - b.column)
    b.row = block // across * row_block
    b.rows = at_most(row_block, t.rows - b.row)
    return b


cdef inline ptrdiff_t blocks_of(const Pooling *t, ptrdiff_t row_block) noexcept nogil:
    return ceil_div(t.rows, row_block) * ceil_div(t.columns, t.column_block)


cdef inline void columns_of(const Pooling *t, const Block *b, ptrdiff_t *column, ptrdiff_t *count,
                            ptrdiff_t *at) noexcept nogil:
    """The columns inside that a block's windows reach, and the padded position of the first."""
    cdef ptrdiff_t begin = b.column * t.step_w - t.low_w
    cdef ptrdiff_t extent = (b.columns - 1) * t.step_w + (t.kernel_w - 1) * t.dilation_w + 1
    column[0] = at_most(at_least(begin, 0), t.input_columns)
    count[0] = at_least(at_most(begin + extent, t.input_columns) - column[0], 0)
    at[0] = column[0] - begin


cdef inline ptrdiff_t alike(ptrdiff_t j, ptrdiff_t rows, ptrdiff_t top, ptrdiff_t step, ptrdiff_t kernel,
                            ptrdiff_t dilation, ptrdiff_t size) noexcept nogil:
    """How many rows of windows from `j` on, the first of which begins at `top`, lie alike: wholly inside, or 1."""
    if top < 0 or top + (kernel - 1) * dilation >= size:
        return 1
    return at_most(rows - j, (size - 1 - (kernel - 1) * dilation - top) // step + 1)


cdef inline void pool_rows(const Pooling *t, const Block *b, const real *plane, char *scratch,
                           real *output) noexcept nogil:
    """Down, then across: each element of the input is read where it is."""
    cdef const ptrdiff_t *places = <const ptrdiff_t *>t.places
    cdef const real *counts = <const real *>t.counts + b.column
    cdef ptrdiff_t step = t.step_w * t.pitch, j = 0, top, r, r_end, column, count, at, rows
    cdef real *buffer = <real *>scratch
    cdef bint maximum = t.maximum
    if b.columns < t.columns:
        clear_rows(t, buffer, False)
    columns_of(t, b, &column, &count, &at)
    output += b.row * t.output_h + b.column
    while j < b.rows:
        top = (b.row + j) * t.step_h - t.low_h
        rows = alike(j, b.rows, top, t.step_h, t.kernel_h, t.dilation_h, t.input_rows)
        inside(top, t.kernel_h, t.dilation_h, t.input_rows, &r, &r_end)
        if r == r_end or count == 0:
            pad(buffer + j * step, rows * step, -INFINITY if maximum else 0)
        else:
            down(maximum, r_end - r, plane + (top + r * t.dilation_h) * t.input_columns + column,
                 t.dilation_h * t.input_columns, count, buffer + j * step, t.step_w, t.pitch, at, rows,
                 t.step_h * t.input_columns, step)
        if not maximum:
            across(False, t.kernel_w, buffer + j * step, places, output + j * t.output_h, b.columns, counts,
                   counted_rows(t, b.row + j), rows, step, t.output_h)
        j += rows
    if maximum:
        across(True, t.kernel_w, buffer, places, output, b.columns, counts, 1, b.rows, step, t.output_h)


cdef inline void around_rows(const Pooling *t, const real *plane, ptrdiff_t first, ptrdiff_t last,
                             real *output) noexcept nogil:
    """Rows [first, last) of what is around every element; averages in the plane's first and last may divide by less."""
    cdef ptrdiff_t end
    while first < last:
        end = last
        if not t.maximum and not t.around_alike:
            end = first + 1 if first == 0 else at_least(at_most(t.rows - 1, last), first + 1)
        around(t.maximum, plane, t.input_rows, t.input_columns, first, end, <const real *>t.counts,
               counted_rows(t, first), output)
        first = end


cdef inline void label_rows(const Pooling *t, const Block *b, const real *plane, char *scratch, real *output,
                            int64_t *indices) noexcept nogil:
    """Padded rows, then across, then down: of equal maxima the first in row-major order wins."""
    cdef const ptrdiff_t *places = <const ptrdiff_t *>t.places
    cdef ptrdiff_t step = t.step_w * t.pitch, first = at_least(b.row * t.step_h - t.low_h, 0)
    cdef ptrdiff_t last = at_most((b.row + b.rows - 1) * t.step_h - t.low_h + (t.kernel_h - 1) * t.dilation_h + 1,
                                  t.input_rows)
    cdef ptrdiff_t j = 0, i, r, r_end, top, column, count, at, place, rows
    cdef real *buffer = <real *>scratch
    cdef real *pooled = <real *>(scratch + t.pooled_offset)
    cdef real *labels = <real *>(scratch + t.labels_offset)  # as wide as elements
    cdef int careful
    if b.columns < t.columns:
        clear_rows(t, buffer, True)
    columns_of(t, b, &column, &count, &at)
    careful = down(True, 1, plane + first * t.input_columns + column, 0, count, buffer, t.step_w, t.pitch, at,
                   last - first, t.input_columns, step)
    across_labels(careful, t.kernel_w, buffer, places, t.dilation_w, pooled, labels, b.columns, last - first, step,
                  t.pooled_pitch)
    while j < b.rows:
        top = (b.row + j) * t.step_h - t.low_h
        rows = alike(j, b.rows, top, t.step_h, t.kernel_h, t.dilation_h, t.input_rows)
        place = (b.row + j) * t.output_h + b.column
        inside(top, t.kernel_h, t.dilation_h, t.input_rows, &r, &r_end)
        top += r * t.dilation_h
        i = (top - first) * t.pooled_pitch
        if r == r_end:
            pad(output + place, b.columns, -INFINITY)
        if r == r_end or down_labels(
                careful, r_end - r, pooled + i, labels + i, t.dilation_h * t.pooled_pitch,
                t.dilation_h * t.input_columns, top * t.input_columns + b.column * t.step_w - t.low_w, t.step_w,
                output + place, indices + place, b.columns, rows, t.step_h * t.pooled_pitch, t.output_h,
                t.step_h * t.input_columns):
            start_lowest(t, b.row + j, rows, b.column, b.columns, output, indices)
        j += rows


cdef inline void start_lowest(const Pooling *t, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t column, ptrdiff_t columns,
                              const real *output, int64_t *indices) noexcept nogil:
    """Where a maximum is -inf, its window begins; the index found may be one of padding."""
    cdef ptrdiff_t p, q
    for p in range(row, row + rows):
        for q in range(column, column + columns):
            if output[p * t.output_h + q] == <real>-INFINITY:
                indices[p * t.output_h + q] = start_of_window(t, p, q)


cdef inline void pool_block(const Pooling *t, const Block *b, const real *plane, char *scratch, real *output,
                            int64_t *indices) noexcept nogil:
    """`output` and `indices` are element (0, 0) of the plane's."""
    if t.way == BY_WINDOW:
        pool_by_window(t, b, plane, output, indices)
    elif indices != NULL and t.around:
        if around_found(plane, t.input_rows, t.input_columns, b.row, b.row + b.rows, output, indices):
            start_lowest(t, b.row, b.rows, 0, b.columns, output, indices)
    elif indices != NULL:
        label_rows(t, b, plane, scratch, output, indices)
    elif t.around:
        around_rows(t, plane, b.row, b.row + b.rows, output)
    else:
        pool_rows(t, b, plane, scratch, output)
