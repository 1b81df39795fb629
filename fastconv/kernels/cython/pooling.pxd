"""What the pooling kernels use of pooling.h and its parts, for either element type."""

from libc.stdint cimport int32_t, int64_t

from fastconv.kernels.cython.simd cimport real

cdef extern from "pooling.h" nogil:
    int fc_down_f32(int maximum, ptrdiff_t taps, const float *source, ptrdiff_t row, ptrdiff_t n, float *to,
                    ptrdiff_t step, ptrdiff_t pitch, ptrdiff_t at, ptrdiff_t rows, ptrdiff_t from_step,
                    ptrdiff_t to_step)
    int fc_down_f64(int maximum, ptrdiff_t taps, const double *source, ptrdiff_t row, ptrdiff_t n, double *to,
                    ptrdiff_t step, ptrdiff_t pitch, ptrdiff_t at, ptrdiff_t rows, ptrdiff_t from_step,
                    ptrdiff_t to_step)
    void fc_across_f32(int maximum, ptrdiff_t taps, const float *source, const ptrdiff_t *places, float *to,
                       ptrdiff_t n, const float *counts, float taller, ptrdiff_t rows, ptrdiff_t from_step,
                       ptrdiff_t to_step)
    void fc_across_f64(int maximum, ptrdiff_t taps, const double *source, const ptrdiff_t *places, double *to,
                       ptrdiff_t n, const double *counts, double taller, ptrdiff_t rows, ptrdiff_t from_step,
                       ptrdiff_t to_step)
    void fc_across_labels_f32(int careful, ptrdiff_t taps, const float *source, const ptrdiff_t *places,
                              int32_t dilation, float *to, int32_t *labels, ptrdiff_t n,
                              ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t to_step)
    void fc_across_labels_f64(int careful, ptrdiff_t taps, const double *source, const ptrdiff_t *places,
                              int64_t dilation, double *to, int64_t *labels, ptrdiff_t n,
                              ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t to_step)
    int fc_down_labels_f32(int careful, ptrdiff_t taps, const float *source, const int32_t *labels, ptrdiff_t pitch,
                           int32_t row, int32_t base, int32_t step, float *to, int64_t *indices, ptrdiff_t n,
                           ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t to_step, int32_t base_step)
    int fc_down_labels_f64(int careful, ptrdiff_t taps, const double *source, const int64_t *labels, ptrdiff_t pitch,
                           int64_t row, int64_t base, int64_t step, double *to, int64_t *indices, ptrdiff_t n,
                           ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t to_step, int64_t base_step)
    void fc_planes_f32(int maximum, const float *source, ptrdiff_t n, ptrdiff_t planes, float *to, double divisor)
    void fc_planes_f64(int maximum, const double *source, ptrdiff_t n, ptrdiff_t planes, double *to, double divisor)

    void fc_around_f32(int maximum, const float *source, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first,
                       ptrdiff_t last, const float *counts, float taller, float *to)
    void fc_around_f64(int maximum, const double *source, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first,
                       ptrdiff_t last, const double *counts, double taller, double *to)
    int fc_around_found_f32(const float *source, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first, ptrdiff_t last, float *to,
                            int64_t *indices)
    int fc_around_found_f64(const double *source, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first, ptrdiff_t last,
                            double *to, int64_t *indices)

    int fc_scatter_f32(const float *source, const int64_t *indices, ptrdiff_t n, size_t end, float *plane)
    int fc_scatter_abreast_f32(const float *source, const int64_t *indices, ptrdiff_t n, size_t size,
                               float *planes)
    int fc_scatter_f64(const double *source, const int64_t *indices, ptrdiff_t n, size_t end, double *plane)
    int fc_scatter_abreast_f64(const double *source, const int64_t *indices, ptrdiff_t n, size_t size,
                               double *planes)
    void fc_shares_f32(const float *source, const float *counts, float taller, ptrdiff_t n, float *to,
                       ptrdiff_t rows, ptrdiff_t to_step)
    void fc_shares_f64(const double *source, const double *counts, double taller, ptrdiff_t n, double *to,
                       ptrdiff_t rows, ptrdiff_t to_step)
    void fc_collect_f32(ptrdiff_t kernel, ptrdiff_t step, const float *source, ptrdiff_t low, float *to, ptrdiff_t n,
                        ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t copies)
    void fc_collect_f64(ptrdiff_t kernel, ptrdiff_t step, const double *source, ptrdiff_t low, double *to, ptrdiff_t n,
                        ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t copies)
    void fc_fill_planes_f32(const float *source, ptrdiff_t n, ptrdiff_t planes, float *to, double divisor)
    void fc_fill_planes_f64(const double *source, ptrdiff_t n, ptrdiff_t planes, double *to, double divisor)


cdef inline int down(int maximum, ptrdiff_t taps, const real *source, ptrdiff_t row, ptrdiff_t n, real *to,
                     ptrdiff_t step, ptrdiff_t pitch, ptrdiff_t at, ptrdiff_t rows, ptrdiff_t from_step,
                     ptrdiff_t to_step) noexcept nogil:
    if real is float:
        return fc_down_f32(maximum, taps, source, row, n, to, step, pitch, at, rows, from_step, to_step)
    else:
        return fc_down_f64(maximum, taps, source, row, n, to, step, pitch, at, rows, from_step, to_step)


cdef inline void across(int maximum, ptrdiff_t taps, const real *source, const ptrdiff_t *places, real *to,
                        ptrdiff_t n, const real *counts, ptrdiff_t taller, ptrdiff_t rows, ptrdiff_t from_step,
                        ptrdiff_t to_step) noexcept nogil:
    if real is float:
        fc_across_f32(maximum, taps, source, places, to, n, counts, <float>taller, rows, from_step, to_step)
    else:
        fc_across_f64(maximum, taps, source, places, to, n, counts, <double>taller, rows, from_step, to_step)


cdef inline void across_labels(int careful, ptrdiff_t taps, const real *source, const ptrdiff_t *places,
                               ptrdiff_t dilation, real *to, void *labels, ptrdiff_t n, ptrdiff_t rows,
                               ptrdiff_t from_step, ptrdiff_t to_step) noexcept nogil:
    if real is float:
        fc_across_labels_f32(careful, taps, source, places, <int32_t>dilation, to, <int32_t *>labels, n, rows,
                             from_step, to_step)
    else:
        fc_across_labels_f64(careful, taps, source, places, dilation, to, <int64_t *>labels, n, rows, from_step,
                             to_step)


cdef inline int down_labels(int careful, ptrdiff_t taps, const real *source, const void *labels, ptrdiff_t pitch,
                            ptrdiff_t row, ptrdiff_t base, ptrdiff_t step, real *to, int64_t *indices, ptrdiff_t n,
                            ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t to_step,
                            ptrdiff_t base_step) noexcept nogil:
    if real is float:
        return fc_down_labels_f32(careful, taps, source, <const int32_t *>labels, pitch, <int32_t>row, <int32_t>base,
                                  <int32_t>step, to, indices, n, rows, from_step, to_step, <int32_t>base_step)
    else:
        return fc_down_labels_f64(careful, taps, source, <const int64_t *>labels, pitch, row, base, step, to, indices,
                                  n, rows, from_step, to_step, base_step)


cdef inline void pool_planes(int maximum, const real *source, ptrdiff_t n, ptrdiff_t planes, real *to,
                             double divisor) noexcept nogil:
    if real is float:
        fc_planes_f32(maximum, source, n, planes, to, divisor)
    else:
        fc_planes_f64(maximum, source, n, planes, to, divisor)


cdef inline void around(int maximum, const real *source, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first,
                        ptrdiff_t last, const real *counts, ptrdiff_t taller, real *to) noexcept nogil:
    if real is float:
        fc_around_f32(maximum, source, size, n, first, last, counts, <float>taller, to)
    else:
        fc_around_f64(maximum, source, size, n, first, last, counts, <double>taller, to)


cdef inline int around_found(const real *source, ptrdiff_t size, ptrdiff_t n, ptrdiff_t first, ptrdiff_t last, real *to,
                             int64_t *indices) noexcept nogil:
    if real is float:
        return fc_around_found_f32(source, size, n, first, last, to, indices)
    else:
        return fc_around_found_f64(source, size, n, first, last, to, indices)


cdef inline int scatter(const real *source, const int64_t *indices, ptrdiff_t n, size_t end,
                        real *plane) noexcept nogil:
    if real is float:
        return fc_scatter_f32(source, indices, n, end, plane)
    else:
        return fc_scatter_f64(source, indices, n, end, plane)


cdef inline int scatter_abreast(const real *source, const int64_t *indices, ptrdiff_t n, size_t size,
                                real *planes) noexcept nogil:
    if real is float:
        return fc_scatter_abreast_f32(source, indices, n, size, planes)
    else:
        return fc_scatter_abreast_f64(source, indices, n, size, planes)


cdef inline void shares(const real *source, const real *counts, ptrdiff_t taller, ptrdiff_t n, real *to,
                        ptrdiff_t rows, ptrdiff_t to_step) noexcept nogil:
    if real is float:
        fc_shares_f32(source, counts, <float>taller, n, to, rows, to_step)
    else:
        fc_shares_f64(source, counts, <double>taller, n, to, rows, to_step)


cdef inline void collect(ptrdiff_t kernel, ptrdiff_t step, const real *source, ptrdiff_t low, real *to, ptrdiff_t n,
                         ptrdiff_t rows, ptrdiff_t from_step, ptrdiff_t copies) noexcept nogil:
    if real is float:
        fc_collect_f32(kernel, step, source, low, to, n, rows, from_step, copies)
    else:
        fc_collect_f64(kernel, step, source, low, to, n, rows, from_step, copies)


cdef inline void fill_planes(const real *source, ptrdiff_t n, ptrdiff_t planes, real *to,
                             double divisor) noexcept nogil:
    if real is float:
        fc_fill_planes_f32(source, n, planes, to, divisor)
    else:
        fc_fill_planes_f64(source, n, planes, to, divisor)
