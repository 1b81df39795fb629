"""The task of the pooling kernels, and pooling window by window: the way of whatever has no rows of its own.

That are windows that are very wide or far apart, and rows too long to be kept.
"""

from libc.math cimport INFINITY
from libc.stdint cimport int64_t

from fastconv.kernels.cython.simd cimport at_least, at_most, ceil_div, fc_slots, real, sum_run

cdef enum:
    BY_WINDOW  # every window by itself
    BY_ROWS
    WHOLE  # one window, the whole plane
    BY_CHANNELS  # every window by itself, channels last

cdef struct Call:  # addresses, 0 where there is none; backward: of grad_input and grad_output
    size_t input, output
    size_t indices
    size_t values  # backward: the input, where there are no indices
    size_t outside  # backward: int64, set to 1 where an index lies outside its plane
    size_t scratch

cdef struct Pooling:
    ptrdiff_t way, maximum, channels, planes, channel_block
    ptrdiff_t input_rows, input_columns, rows, columns
    ptrdiff_t kernel_h, kernel_w, step_h, step_w, dilation_h, dilation_w
    ptrdiff_t low_h, high_h, low_w, high_w
    ptrdiff_t count_padding, overridden
    double divisor
    # Steps in elements along image, channel, row and column of the input (grad_input) and output.
    ptrdiff_t input_n, input_c, input_h, input_w, output_n, output_c, output_h, output_w
    # Tables: places of the column taps in a padded row, and what an average divides by for the columns of windows.
    size_t places, counts
    ptrdiff_t around, around_alike  # windows are the 3 x 3 elements around every one; and averages divide all alike
    # Forward: outputs of a block, without and with labels; elements of a phase and of a row of maxima.
    ptrdiff_t row_block, label_block, column_block, pitch, pooled_pitch
    ptrdiff_t clear_planes, abreast  # of a maximum's gradient: planes cleared at once; whether four are done abreast
    # Backward: rows of grad_input in a block (of a maximum: of grad_output), whether they collect, and from how many
    # rows of shares at most; elements of one of these with its padding, and of the padding before it.
    ptrdiff_t grad_block, collects, cover_rows, cover_pitch, cover_left
    # scratch_bytes for each slot; bytes from its beginning to the pooled rows, their labels, and what backward keeps.
    ptrdiff_t scratch_bytes, pooled_offset, labels_offset, found_offset, maxima_offset, cover_offset

cdef struct PoolingRun:
    Call call
    Pooling fields
    fc_slots slots

cdef struct Block:  # of outputs of one plane
    ptrdiff_t row, rows, column, columns


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


cdef inline ptrdiff_t counted_rows(const Pooling *t, ptrdiff_t p) noexcept nogil:
    """By what the counts of the columns are multiplied in row p of outputs."""
    if t.overridden:
        return 1
    return at_least(counted(p * t.step_h - t.low_h, t.kernel_h, t.input_rows, t.high_h, t.count_padding), 1)


cdef inline double divisor(const Pooling *t, ptrdiff_t p, ptrdiff_t q) noexcept nogil:
    cdef ptrdiff_t columns
    if t.overridden:
        return t.divisor
    columns = counted(q * t.step_w - t.low_w, t.kernel_w, t.input_columns, t.high_w, t.count_padding)
    return <double>(counted_rows(t, p) * at_least(columns, 1))


cdef inline void inside(ptrdiff_t begin, ptrdiff_t kernel, ptrdiff_t dilation, ptrdiff_t size, ptrdiff_t *first,
                        ptrdiff_t *last) noexcept nogil:
    """Taps [first, last) of a window lie inside."""
    first[0] = at_most(ceil_div(-begin, dilation), kernel)
    last[0] = at_least(at_most(ceil_div(size - begin, dilation), kernel), first[0])


cdef inline int64_t start_of_window(const Pooling *t, ptrdiff_t p, ptrdiff_t q) noexcept nogil:
    """The index of a window without a maximum."""
    return (first_inside(p * t.step_h - t.low_h, t.kernel_h, t.dilation_h, t.input_rows) * t.input_columns
            + first_inside(q * t.step_w - t.low_w, t.kernel_w, t.dilation_w, t.input_columns))


cdef inline real max_of_window(const Pooling *t, const real *plane, ptrdiff_t p, ptrdiff_t q,
                               int64_t *index) noexcept nogil:
    cdef ptrdiff_t top = p * t.step_h - t.low_h, left = q * t.step_w - t.low_w
    cdef ptrdiff_t r, r_end, s, s_first, s_end, h, w
    cdef real best = -INFINITY, x
    inside(top, t.kernel_h, t.dilation_h, t.input_rows, &r, &r_end)
    inside(left, t.kernel_w, t.dilation_w, t.input_columns, &s_first, &s_end)
    index[0] = start_of_window(t, p, q)
    for r in range(r, r_end):
        h = top + r * t.dilation_h
        for s in range(s_first, s_end):
            w = left + s * t.dilation_w
            x = plane[h * t.input_h + w * t.input_w]
            if x > best or (x != x and best == best):
                best = x
                index[0] = h * t.input_columns + w
    return best


cdef inline real average_of_window(const Pooling *t, const real *plane, ptrdiff_t p, ptrdiff_t q) noexcept nogil:
    cdef ptrdiff_t top = p * t.step_h - t.low_h, left = q * t.step_w - t.low_w
    cdef ptrdiff_t r, r_end, s, s_first, s_end
    cdef const real *run
    cdef double total = 0
    inside(top, t.kernel_h, 1, t.input_rows, &r, &r_end)
    inside(left, t.kernel_w, 1, t.input_columns, &s_first, &s_end)
    for r in range(r, r_end):
        run = plane + (top + r) * t.input_h + (left + s_first) * t.input_w
        if t.input_w == 1:
            total += sum_run(run, s_end - s_first)
        else:
            for s in range(s_end - s_first):
                total += <double>run[s * t.input_w]
    return <real>(total / divisor(t, p, q))


cdef inline void pool_by_window(const Pooling *t, const Block *b, const real *plane, real *output,
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
