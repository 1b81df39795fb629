"""Pooling of channels-last images, window by window, in vectors along the channels; pooling_channels.h does these."""

from libc.stdint cimport int32_t, int64_t

from fastconv.kernels.cython.pool_windows cimport Call, Pooling, divisor, inside, start_of_window
from fastconv.kernels.cython.simd cimport at_most, ceil_div, real

cdef extern from "pooling.h" nogil:
    void fc_pool_channels_f32(int maximum, const float *source, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_step,
                              ptrdiff_t column_step, ptrdiff_t n, float divisor, float *to)
    void fc_pool_channels_f64(int maximum, const double *source, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_step,
                              ptrdiff_t column_step, ptrdiff_t n, double divisor, double *to)
    void fc_label_channels_f32(const float *source, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_step,
                               ptrdiff_t column_step, ptrdiff_t n, int32_t start, int32_t first, int32_t index_row,
                               int32_t index_column, float *to, int64_t *indices)
    void fc_label_channels_f64(const double *source, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_step,
                               ptrdiff_t column_step, ptrdiff_t n, int64_t start, int64_t first, int64_t index_row,
                               int64_t index_column, double *to, int64_t *indices)
    int fc_scatter_channels_f32(const float *grad, const int64_t *indices, const float *values, ptrdiff_t rows,
                                ptrdiff_t columns, ptrdiff_t row_step, ptrdiff_t column_step, ptrdiff_t n,
                                int32_t start, int32_t first, int32_t index_row, int32_t index_column, float *to,
                                float *plane, ptrdiff_t pixel_step, ptrdiff_t size)
    int fc_scatter_channels_f64(const double *grad, const int64_t *indices, const double *values, ptrdiff_t rows,
                                ptrdiff_t columns, ptrdiff_t row_step, ptrdiff_t column_step, ptrdiff_t n,
                                int64_t start, int64_t first, int64_t index_row, int64_t index_column, double *to,
                                double *plane, ptrdiff_t pixel_step, ptrdiff_t size)
    void fc_spread_channels_f32(const float *grad, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_step,
                                ptrdiff_t column_step, ptrdiff_t n, float divisor, float *to)
    void fc_spread_channels_f64(const double *grad, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t row_step,
                                ptrdiff_t column_step, ptrdiff_t n, double divisor, double *to)

cdef struct Window:  # of output pixel (p, q), what of it is inside
    ptrdiff_t rows, columns, row_step, column_step
    ptrdiff_t pixel  # the first one's index in its plane
    ptrdiff_t start  # the index of a window without a maximum


cdef inline Window window_at(const Pooling *t, ptrdiff_t p, ptrdiff_t q) noexcept nogil:
    cdef Window w
    cdef ptrdiff_t top = p * t.step_h - t.low_h, left = q * t.step_w - t.low_w, r, r_end, s, s_end
    inside(top, t.kernel_h, t.dilation_h, t.input_rows, &r, &r_end)
    inside(left, t.kernel_w, t.dilation_w, t.input_columns, &s, &s_end)
    w.rows = r_end - r if s_end > s else 0
    w.columns = s_end - s
    w.row_step = t.dilation_h * t.input_h
    w.column_step = t.dilation_w * t.input_w
    w.pixel = (top + r * t.dilation_h) * t.input_columns + left + s * t.dilation_w if w.rows > 0 else 0
    w.start = start_of_window(t, p, q)
    return w


cdef inline void pool_pixels(const Pooling *t, const real *image, ptrdiff_t p, ptrdiff_t column, ptrdiff_t last,
                             real *output, int64_t *indices) noexcept nogil:
    """Pixels [column, last) of row p of an image's outputs, all channels."""
    cdef ptrdiff_t q, place
    cdef Window w
    cdef const real *source
    for q in range(column, last):
        w = window_at(t, p, q)
        source = image + w.pixel * t.input_w
        place = p * t.output_h + q * t.output_w
        if indices == NULL:
            if real is float:
                fc_pool_channels_f32(<int>t.maximum, source, w.rows, w.columns, w.row_step, w.column_step, t.channels,
                                     <float>(0 if t.maximum else divisor(t, p, q)), output + place)
            else:
                fc_pool_channels_f64(<int>t.maximum, source, w.rows, w.columns, w.row_step, w.column_step, t.channels,
                                     0 if t.maximum else divisor(t, p, q), output + place)
        elif real is float:
            fc_label_channels_f32(source, w.rows, w.columns, w.row_step, w.column_step, t.channels, <int32_t>w.start,
                                  <int32_t>w.pixel, <int32_t>(t.dilation_h * t.input_columns), <int32_t>t.dilation_w,
                                  output + place, indices + place)
        else:
            fc_label_channels_f64(source, w.rows, w.columns, w.row_step, w.column_step, t.channels, w.start, w.pixel,
                                  t.dilation_h * t.input_columns, t.dilation_w, output + place, indices + place)


cdef inline void pool_channels(const Pooling *t, const Call *call, const real *unit, ptrdiff_t first,
                               ptrdiff_t last) noexcept nogil:
    """Forward: an item is a block of columns of one row of an image's outputs."""
    cdef ptrdiff_t blocks = ceil_div(t.columns, t.column_block), item, image, row, column, output
    for item in range(first, last):
        column = item % blocks * t.column_block
        row = item // blocks % t.rows
        image = item // blocks // t.rows
        output = image * t.output_n
        pool_pixels(t, <const real *>call.input + image * t.input_n, row, column,
                    at_most(column + t.column_block, t.columns), <real *>call.output + output,
                    (<int64_t *>call.indices + output) if call.indices else NULL)


cdef inline bint spread_channels(const Pooling *t, const Call *call, const real *unit, ptrdiff_t image,
                                 ptrdiff_t channel) noexcept nogil:
    """The gradient of some channels of an image; False where an index is outside."""
    cdef ptrdiff_t n = at_most(t.channel_block, t.channels - channel), pixels = t.input_rows * t.input_columns
    cdef ptrdiff_t p, q, i, c, place, at
    cdef real *plane = <real *>call.input + image * t.input_n + channel
    cdef const real *values = (<const real *>call.values + image * t.input_n + channel) if call.values else NULL
    cdef const real *grad = <const real *>call.output + image * t.output_n + channel
    cdef const int64_t *indices = (<const int64_t *>call.indices + image * t.output_n + channel) if call.indices else NULL
    cdef const int64_t *where = NULL
    cdef const real *found = NULL
    cdef bint all_inside = True
    cdef Window w
    for i in range(pixels):
        for c in range(n):
            plane[i * t.input_w + c] = 0
    for p in range(t.rows):
        for q in range(t.columns):
            w = window_at(t, p, q)
            place = p * t.output_h + q * t.output_w
            at = w.pixel * t.input_w
            if indices != NULL:
                where = indices + place
            elif values != NULL:
                found = values + at
            if real is float:
                if not t.maximum:
                    fc_spread_channels_f32(grad + place, w.rows, w.columns, w.row_step, w.column_step, n,
                                           <float>divisor(t, p, q), plane + at)
                else:
                    all_inside &= fc_scatter_channels_f32(
                        grad + place, where, found, w.rows, w.columns, w.row_step, w.column_step, n, <int32_t>w.start,
                        <int32_t>w.pixel, <int32_t>(t.dilation_h * t.input_columns), <int32_t>t.dilation_w,
                        plane + at, plane, t.input_w, pixels)
            else:
                if not t.maximum:
                    fc_spread_channels_f64(grad + place, w.rows, w.columns, w.row_step, w.column_step, n,
                                           divisor(t, p, q), plane + at)
                else:
                    all_inside &= fc_scatter_channels_f64(
                        grad + place, where, found, w.rows, w.columns, w.row_step, w.column_step, n, w.start, w.pixel,
                        t.dilation_h * t.input_columns, t.dilation_w, plane + at, plane, t.input_w, pixels)
    return all_inside
