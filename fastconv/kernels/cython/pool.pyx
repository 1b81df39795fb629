"""Pooling, plane by plane.

Forward is separable: each input row that a block of outputs needs is copied with its padding, split by stride as in
taps.py, so that the taps of neighbouring windows are neighbours; `across` pools it along the row, `down` pools
the results over rows. Across before down keeps ties right: the first in row-major order is the first of the first
row that holds one. Labels carry the column of a maximum, then its row.

Few outputs in a row, very wide windows, and channels-last images go window by window instead.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from fastconv.kernels.cython.simd cimport (
    FC_BYTES, add_into, at_least, at_most, ceil_div, copy_strided, fc_give_slot, fc_kernel, fc_slots, fc_take_slot, max_labels, max_taps, real,
    sum_run, sum_taps)

cdef struct Pooling:
    # Addresses; steps in elements along image, channel, row and column of the input (grad_input) and output.
    size_t input, output  # backward: grad_input and grad_output; `values` is then the input, or 0
    size_t indices, values  # 0: none
    ptrdiff_t input_n, input_c, input_h, input_w, output_n, output_c, output_h, output_w
    ptrdiff_t maximum, channels, input_rows, input_columns, rows, columns
    ptrdiff_t kernel_h, kernel_w, step_h, step_w, dilation_h, dilation_w
    ptrdiff_t low_h, high_h, low_w, high_w
    ptrdiff_t count_padding, overridden
    double divisor
    ptrdiff_t by_window  # not separable
    ptrdiff_t row_block, column_block
    # int64 tables for pixel 0 of a block: input row of each buffer row, input column of each group of the row
    # buffer, places of the column taps in the row buffer and of the row taps in the pooled rows.
    size_t buffer_rows, column_groups, column_places, row_places
    ptrdiff_t buffer_row_count, column_group_count, group_pitch, pitch
    # scratch_bytes for each slot: row buffer, pooled rows, their labels, starts, a block's indices.
    size_t scratch
    ptrdiff_t scratch_bytes, pooled_offset, labels_offset, starts_offset, found_offset

cdef struct PoolingRun:
    Pooling fields
    fc_slots slots

cdef struct Block:  # of outputs of one plane
    ptrdiff_t row, rows, column, columns

ctypedef fused label:
    int32_t
    int64_t


# -- Windows ----------------------------------------------------------------------------------------

cdef inline ptrdiff_t first_inside(ptrdiff_t begin, ptrdiff_t kernel, ptrdiff_t dilation, ptrdiff_t size) noexcept nogil:
    """The first position of a window inside; of one wholly in padding the nearest to its begin."""
    cdef ptrdiff_t skipped = ceil_div(-begin, dilation)
    if skipped < kernel and begin + skipped * dilation < size:
        return begin + skipped * dilation
    return at_most(at_least(begin, 0), size - 1)


cdef inline ptrdiff_t counted(ptrdiff_t begin, ptrdiff_t kernel, ptrdiff_t size, ptrdiff_t high,
                              ptrdiff_t count_padding) noexcept nogil:
    """How many positions of a window the divisor counts along an axis."""
    cdef ptrdiff_t end = at_most(begin + kernel, size + high)
    if not count_padding:
        begin = at_least(begin, 0)
        end = at_most(end, size)
    return at_least(end - begin, 0)


cdef inline double divisor(const Pooling *t, ptrdiff_t p, ptrdiff_t q) noexcept nogil:
    cdef ptrdiff_t rows, columns
    if t.overridden:
        return t.divisor
    rows = counted(p * t.step_h - t.low_h, t.kernel_h, t.input_rows, t.high_h, t.count_padding)
    columns = counted(q * t.step_w - t.low_w, t.kernel_w, t.input_columns, t.high_w, t.count_padding)
    return <double>at_least(rows * columns, 1)


cdef inline void inside(ptrdiff_t begin, ptrdiff_t kernel, ptrdiff_t dilation, ptrdiff_t size, ptrdiff_t *first,
                        ptrdiff_t *last) noexcept nogil:
    """Taps [first, last) of a window lie inside."""
    first[0] = at_most(ceil_div(-begin, dilation), kernel)
    last[0] = at_least(at_most(ceil_div(size - begin, dilation), kernel), first[0])


# -- Forward, window by window ----------------------------------------------------------------------

cdef real max_of_window(const Pooling *t, const real *plane, ptrdiff_t p, ptrdiff_t q, int64_t *index) noexcept nogil:
    cdef ptrdiff_t top = p * t.step_h - t.low_h, left = q * t.step_w - t.low_w
    cdef ptrdiff_t r, r_end, s, s_first, s_end, h, w
    cdef real best = -INFINITY, x
    inside(top, t.kernel_h, t.dilation_h, t.input_rows, &r, &r_end)
    inside(left, t.kernel_w, t.dilation_w, t.input_columns, &s_first, &s_end)
    index[0] = (first_inside(top, t.kernel_h, t.dilation_h, t.input_rows) * t.input_columns
                + first_inside(left, t.kernel_w, t.dilation_w, t.input_columns))
    for r in range(r, r_end):
        h = top + r * t.dilation_h
        for s in range(s_first, s_end):
            w = left + s * t.dilation_w
            x = plane[h * t.input_h + w * t.input_w]
            if x > best or (x != x and best == best):
                best = x
                index[0] = h * t.input_columns + w
    return best


cdef real average_of_window(const Pooling *t, const real *plane, ptrdiff_t p, ptrdiff_t q) noexcept nogil:
    cdef ptrdiff_t top = p * t.step_h - t.low_h, left = q * t.step_w - t.low_w
    cdef ptrdiff_t r, r_end, s, s_first, s_end
    cdef const real *run
    cdef double total = 0
    inside(top, t.kernel_h, 1, t.input_rows, &r, &r_end)
    inside(left, t.kernel_w, 1, t.input_columns, &s_first, &s_end)
    if t.input_w == 1 and s_end - s_first == t.input_columns:  # whole rows are one run
        run = plane + (top + r) * t.input_h
        total = sum_run(run, (r_end - r) * t.input_columns)
        return <real>(total / divisor(t, p, q))
    for r in range(r, r_end):
        run = plane + (top + r) * t.input_h + (left + s_first) * t.input_w
        if t.input_w == 1:
            total += sum_run(run, s_end - s_first)
        else:
            for s in range(s_end - s_first):
                total += <double>run[s * t.input_w]
    return <real>(total / divisor(t, p, q))


cdef void pool_by_window(const Pooling *t, const Block *b, const real *plane, real *output,
                         int64_t *indices) noexcept nogil:
    cdef ptrdiff_t p, q, place
    cdef int64_t index
    for p in range(b.row, b.row + b.rows):
        for q in range(b.column, b.column + b.columns):
            place = p * t.output_h + q * t.output_w
            if t.maximum:
                output[place] = max_of_window(t, plane, p, q, &index)
                if indices != NULL:
                    indices[place] = index
            else:
                output[place] = average_of_window(t, plane, p, q)


# -- Forward, separable -----------------------------------------------------------------------------

cdef void fill_row(const Pooling *t, const Block *b, const real *row, real *to) noexcept nogil:
    """Copy the columns that a block needs of one row, with its padding, group after group."""
    cdef const ptrdiff_t *groups = <const ptrdiff_t *>t.column_groups
    cdef real outside = -INFINITY if t.maximum else 0
    cdef ptrdiff_t g, column, first, last, i
    for g in range(t.column_group_count):
        column = groups[g] + b.column * t.step_w
        first = at_most(ceil_div(-column, t.step_w), t.group_pitch)
        last = at_least(at_most(ceil_div(t.input_columns - column, t.step_w), t.group_pitch), first)
        for i in range(first):
            to[i] = outside
        if last > first:
            copy_strided(to + first, row + column + first * t.step_w, t.step_w, last - first)
        for i in range(last, t.group_pitch):
            to[i] = outside
        to += t.group_pitch


cdef void start_columns(const Pooling *t, const Block *b, label *starts) noexcept nogil:
    """The column of the first tap of each window, then the label of windows without a maximum."""
    cdef ptrdiff_t i, begin
    for i in range(t.pitch):
        begin = (b.column + at_most(i, b.columns - 1)) * t.step_w - t.low_w
        starts[i] = <label>begin
        starts[t.pitch + i] = <label>first_inside(begin, t.kernel_w, t.dilation_w, t.input_columns)


cdef void across(const Pooling *t, const Block *b, const real *plane, char *scratch, bint labelled) noexcept nogil:
    """Pool every row of the block's buffer along the row."""
    cdef const ptrdiff_t *rows = <const ptrdiff_t *>t.buffer_rows
    cdef const ptrdiff_t *places = <const ptrdiff_t *>t.column_places
    cdef real *buffer = <real *>scratch
    cdef real *pooled = <real *>(scratch + t.pooled_offset)
    cdef char *labels = scratch + t.labels_offset
    cdef char *starts = scratch + t.starts_offset
    cdef ptrdiff_t j, i, h, labels_step = t.pitch * <ptrdiff_t>sizeof(real)
    for j in range(t.buffer_row_count):
        h = rows[j] + b.row * t.step_h
        if 0 <= h < t.input_rows:
            fill_row(t, b, plane + h * t.input_h, buffer)
            if labelled:
                max_labels(buffer, NULL, starts, t.dilation_w, starts + labels_step, places, t.kernel_w, pooled, labels,
                           NULL, t.pitch)
            elif t.maximum:
                max_taps(buffer, places, t.kernel_w, pooled, t.pitch)
            else:
                sum_taps(buffer, places, t.kernel_w, pooled, t.pitch)
        else:
            for i in range(t.pitch):
                pooled[i] = -INFINITY if t.maximum else 0
            if labelled:
                memcpy(labels, starts + labels_step, <size_t>labels_step)
        pooled += t.pitch
        labels += labels_step


cdef void write_indices(const Pooling *t, const Block *b, ptrdiff_t p, const label *columns, int64_t *to) noexcept nogil:
    """Flat indices of one row of outputs, from the column of each maximum and, `pitch` behind it, its row tap."""
    cdef ptrdiff_t top = p * t.step_h - t.low_h, i
    cdef int64_t start = first_inside(top, t.kernel_h, t.dilation_h, t.input_rows)
    cdef const label *taps = columns + t.pitch
    for i in range(b.columns):
        to[i] = (start if taps[i] < 0 else top + taps[i] * t.dilation_h) * t.input_columns + columns[i]


cdef void down(const Pooling *t, const Block *b, char *scratch, real *output, int64_t *indices) noexcept nogil:
    """Pool the pooled rows over rows, and write a block of outputs; `output` is element (0, 0) of the plane's."""
    cdef const ptrdiff_t *places = <const ptrdiff_t *>t.row_places
    cdef const real *pooled = <const real *>(scratch + t.pooled_offset)
    cdef char *labels = scratch + t.labels_offset
    cdef ptrdiff_t step = t.pitch * <ptrdiff_t>sizeof(real), j, p, place
    for j in range(b.rows):
        p = b.row + j
        place = p * t.output_h + b.column
        if indices != NULL:
            max_labels(pooled, labels, NULL, 0, scratch + t.starts_offset + step, places, t.kernel_h, output + place,
                       scratch, scratch + step, b.columns)
            if real is float:
                write_indices(t, b, p, <int32_t *>scratch, indices + place)
            else:
                write_indices(t, b, p, <int64_t *>scratch, indices + place)
        elif t.maximum:
            max_taps(pooled, places, t.kernel_h, output + place, b.columns)
        else:
            sum_taps(pooled, places, t.kernel_h, output + place, b.columns)
            divide_row(t, p, b.column, b.columns, output + place)
        pooled += t.pitch
        labels += step


cdef void divide_row(const Pooling *t, ptrdiff_t p, ptrdiff_t column, ptrdiff_t columns, real *to) noexcept nogil:
    """Divide a row of sums, or of gradients, by the divisors of their windows."""
    cdef real by = <real>divisor(t, p, column)
    cdef ptrdiff_t i, first = 0, last = columns
    # Between the windows that touch the border all divisors are one.
    while first < columns and (column + first) * t.step_w < t.low_w:
        to[first] /= <real>divisor(t, p, column + first)
        first += 1
    while last > first and (column + last - 1) * t.step_w - t.low_w + t.kernel_w > t.input_columns:
        last -= 1
        to[last] /= <real>divisor(t, p, column + last)
    if first < last:
        by = <real>divisor(t, p, column + first)
    for i in range(first, last):
        to[i] /= by


cdef Block locate(const Pooling *t, ptrdiff_t block) noexcept nogil:
    cdef Block b
    cdef ptrdiff_t across = ceil_div(t.columns, t.column_block)
    b.column = block % across * t.column_block
    b.columns = at_most(t.column_block, t.columns - b.column)
    b.row = block // across * t.row_block
    b.rows = at_most(t.row_block, t.rows - b.row)
    return b


cdef void pool_block(const Pooling *t, const Block *b, const real *plane, char *scratch, real *output,
                     int64_t *indices) noexcept nogil:
    if t.by_window:
        pool_by_window(t, b, plane, output, indices)
        return
    if indices != NULL:
        if real is float:
            start_columns(t, b, <int32_t *>(scratch + t.starts_offset))
        else:
            start_columns(t, b, <int64_t *>(scratch + t.starts_offset))
    across(t, b, plane, scratch, indices != NULL)
    down(t, b, scratch, output, indices)


cdef void forward(real *unit, PoolingRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is one block of one plane."""
    cdef const Pooling *t = &run.fields
    cdef int slot = fc_take_slot(&run.slots)
    cdef ptrdiff_t blocks = ceil_div(t.rows, t.row_block) * ceil_div(t.columns, t.column_block), item, n, c
    cdef int64_t *indices = NULL
    cdef Block b
    for item in range(first, last):
        n = item // blocks // t.channels
        c = item // blocks % t.channels
        b = locate(t, item % blocks)
        if t.indices:
            indices = <int64_t *>t.indices + n * t.output_n + c * t.output_c
        pool_block(t, &b, <const real *>t.input + n * t.input_n + c * t.input_c,
                   <char *>t.scratch + slot * t.scratch_bytes,
                   <real *>t.output + n * t.output_n + c * t.output_c, indices)
    fc_give_slot(&run.slots, slot)


# -- Backward ---------------------------------------------------------------------------------------

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


cdef void maximum_backward(const Pooling *t, const real *grad, const real *values, const int64_t *indices, char *scratch,
                           real *plane) noexcept nogil:
    cdef ptrdiff_t block, blocks = ceil_div(t.rows, t.row_block) * ceil_div(t.columns, t.column_block)
    cdef int64_t *found = <int64_t *>(scratch + t.found_offset)
    cdef real *maxima = <real *>(found + t.row_block * t.column_block)
    cdef Pooling inner
    cdef Block b
    if indices != NULL:
        b.row, b.rows, b.column, b.columns = 0, t.rows, 0, t.columns
        scatter(t, &b, grad, indices, t.output_h, t.output_w, plane)
        return
    inner = t[0]  # the same windows, with a block of outputs in scratch
    inner.output_h = t.column_block
    inner.output_w = 1
    for block in range(blocks):
        b = locate(t, block)
        pool_block(&inner, &b, values, scratch, maxima - b.row * t.column_block - b.column,
                   found - b.row * t.column_block - b.column)
        scatter(t, &b, grad, found, t.column_block, 1, plane)


cdef void average_backward_by_window(const Pooling *t, const real *grad, real *plane) noexcept nogil:
    cdef ptrdiff_t p, q, r, r_end, s, s_first, s_end, top, left
    cdef real share
    cdef real *row
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


cdef void average_backward(const Pooling *t, const real *grad, real *shares, real *plane) noexcept nogil:
    """Spread a row of shares along the row, padding included, then add what is inside to the rows of its windows."""
    cdef real *spread = shares + t.columns
    cdef ptrdiff_t width = (t.columns - 1) * t.step_w + t.kernel_w, p, q, r, r_end, s, top
    for p in range(t.rows):
        memcpy(shares, grad + p * t.output_h, <size_t>t.columns * sizeof(real))
        divide_row(t, p, 0, t.columns, shares)
        memset(spread, 0, <size_t>width * sizeof(real))
        for s in range(t.kernel_w):
            if t.step_w == 1:
                add_into(spread + s, shares, t.columns)
            else:
                for q in range(t.columns):
                    spread[q * t.step_w + s] += shares[q]
        top = p * t.step_h - t.low_h
        inside(top, t.kernel_h, 1, t.input_rows, &r, &r_end)
        for r in range(r, r_end):
            add_into(plane + (top + r) * t.input_h, spread + t.low_w, at_most(t.input_columns, width - t.low_w))


cdef void backward(real *unit, PoolingRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is one plane."""
    cdef const Pooling *t = &run.fields
    cdef int slot = fc_take_slot(&run.slots)
    cdef ptrdiff_t item, input, output
    cdef real *plane
    for item in range(first, last):
        input = item // t.channels * t.input_n + item % t.channels * t.input_c
        output = item // t.channels * t.output_n + item % t.channels * t.output_c
        plane = <real *>t.input + input
        clear(t, plane)
        if t.maximum:
            maximum_backward(
                t, <const real *>t.output + output, <const real *>t.values + input if t.values else NULL,
                <const int64_t *>t.indices + output if t.indices else NULL,
                <char *>t.scratch + slot * t.scratch_bytes, plane)
        elif t.by_window:
            average_backward_by_window(t, <const real *>t.output + output, plane)
        else:
            average_backward(t, <const real *>t.output + output,
                             <real *>(<char *>t.scratch + slot * t.scratch_bytes + t.found_offset), plane)
    fc_give_slot(&run.slots, slot)


cdef void forward_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    forward(<float *>NULL, <PoolingRun *>task, first, last)


cdef void forward_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    forward(<double *>NULL, <PoolingRun *>task, first, last)


cdef void backward_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    backward(<float *>NULL, <PoolingRun *>task, first, last)


cdef void backward_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    backward(<double *>NULL, <PoolingRun *>task, first, last)


#: Bytes of a vector.
VECTOR_BYTES = FC_BYTES
#: Addresses of the range kernels.
FORWARD = {"float32": <size_t><fc_kernel>forward_float32, "float64": <size_t><fc_kernel>forward_float64}
BACKWARD = {"float32": <size_t><fc_kernel>backward_float32, "float64": <size_t><fc_kernel>backward_float64}


def pooling_task(**fields):
    """Pack the task of FORWARD and BACKWARD: every field of `Pooling`, by name."""
    cdef PoolingRun run
    memset(&run, 0, sizeof(run))
    run.fields = fields
    return (<char *>&run)[:sizeof(run)]
