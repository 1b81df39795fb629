"""What kernels use of simd.h, for either element type."""

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

ctypedef fused real:
    float
    double

cdef extern from "simd.h" nogil:
    enum:
        FC_BYTES
        FC_ROWS
        FC_DOTS_KS
        FC_DOTS_LS
    void fc_tile_f32(ptrdiff_t rows, int vectors, const float *a, const ptrdiff_t *offsets, ptrdiff_t count,
                     const float *b, ptrdiff_t b_step, float *c, ptrdiff_t c_step, int add)
    void fc_tile_f64(ptrdiff_t rows, int vectors, const double *a, const ptrdiff_t *offsets, ptrdiff_t count,
                     const double *b, ptrdiff_t b_step, double *c, ptrdiff_t c_step, int add)
    void fc_transpose_all_f32(const float *source, ptrdiff_t source_step, float *to, ptrdiff_t to_step,
                              ptrdiff_t n, ptrdiff_t m)
    void fc_transpose_all_f64(const double *source, ptrdiff_t source_step, double *to, ptrdiff_t to_step,
                              ptrdiff_t n, ptrdiff_t m)
    void fc_dots_f32(ptrdiff_t ks, ptrdiff_t ls, const float *y, ptrdiff_t y_k, ptrdiff_t y_n, ptrdiff_t y_row,
                     const float *x, const ptrdiff_t *places, ptrdiff_t x_n, ptrdiff_t x_row, ptrdiff_t images,
                     ptrdiff_t rows, ptrdiff_t columns, float *sums, ptrdiff_t k_step, int add)
    void fc_dots_f64(ptrdiff_t ks, ptrdiff_t ls, const double *y, ptrdiff_t y_k, ptrdiff_t y_n, ptrdiff_t y_row,
                     const double *x, const ptrdiff_t *places, ptrdiff_t x_n, ptrdiff_t x_row, ptrdiff_t images,
                     ptrdiff_t rows, ptrdiff_t columns, double *sums, ptrdiff_t k_step, int add)
    void fc_copy_even_padded_f32(float *to, const float *source, ptrdiff_t before, ptrdiff_t n, ptrdiff_t after)
    void fc_copy_even_padded_f64(double *to, const double *source, ptrdiff_t before, ptrdiff_t n, ptrdiff_t after)
    void fc_copy_even_f32(float *to, const float *source, ptrdiff_t n)
    void fc_copy_even_f64(double *to, const double *source, ptrdiff_t n)
    void fc_copy_padded_f32(float *to, const float *source, ptrdiff_t before, ptrdiff_t n, ptrdiff_t after)
    void fc_copy_padded_f64(double *to, const double *source, ptrdiff_t before, ptrdiff_t n, ptrdiff_t after)
    ptrdiff_t FC_LINE_VECTORS(ptrdiff_t rows)
    void fc_line_f32(ptrdiff_t rows, ptrdiff_t vectors, const float *x, const ptrdiff_t *offsets, ptrdiff_t count,
                     const float *b, ptrdiff_t b_step, float *c, ptrdiff_t c_step, int add)
    void fc_line_f64(ptrdiff_t rows, ptrdiff_t vectors, const double *x, const ptrdiff_t *offsets, ptrdiff_t count,
                     const double *b, ptrdiff_t b_step, double *c, ptrdiff_t c_step, int add)
    void fc_finish_f32(const float *source, float *to, ptrdiff_t n, float bias, int relu)
    void fc_finish_f64(const double *source, double *to, ptrdiff_t n, double bias, int relu)
    int fc_not_finite_f32(const float *x, ptrdiff_t n)
    int fc_not_finite_f64(const double *x, ptrdiff_t n)
    void fc_epilogue_f32(float *rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t width, const float *bias, int relu)
    void fc_epilogue_f64(double *rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t width, const double *bias, int relu)
    double fc_sum_run_f32(const float *source, ptrdiff_t n)
    double fc_sum_run_f64(const double *source, ptrdiff_t n)

    void prefetch_line "fc_prefetch"(const char *line)

cdef extern from "slots.h" nogil:
    cdef struct fc_slots:
        pass
    int fc_take_slot(fc_slots *slots)
    void fc_give_slot(fc_slots *slots, int slot)

ctypedef void (*fc_kernel)(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil


cdef inline ptrdiff_t lanes(const real *unit) noexcept nogil:
    """Elements of a vector."""
    return FC_BYTES // <ptrdiff_t>sizeof(real)


cdef inline void tile(ptrdiff_t rows, int vectors, const real *a, const ptrdiff_t *offsets, ptrdiff_t count,
                      const real *b, ptrdiff_t b_step, real *c, ptrdiff_t c_step, int add) noexcept nogil:
    """c[i][:] (+)= sum over l of a[offsets[l] + i] * b[l][:]: the register tile of simd.h."""
    if real is float:
        fc_tile_f32(rows, vectors, a, offsets, count, b, b_step, c, c_step, add)
    else:
        fc_tile_f64(rows, vectors, a, offsets, count, b, b_step, c, c_step, add)


cdef inline void line(ptrdiff_t rows, ptrdiff_t vectors, const real *x, const ptrdiff_t *offsets, ptrdiff_t count,
                      const real *b, ptrdiff_t b_step, real *c, ptrdiff_t c_step, int add) noexcept nogil:
    """c[i][:] (+)= sum over l of b[l * b_step + i] * x[offsets[l]:], in whole vectors: the line tile of simd.h."""
    if real is float:
        fc_line_f32(rows, vectors, x, offsets, count, b, b_step, c, c_step, add)
    else:
        fc_line_f64(rows, vectors, x, offsets, count, b, b_step, c, c_step, add)


cdef inline void finish_line(const real *source, real *to, ptrdiff_t n, real bias, int relu) noexcept nogil:
    """to[i] = relu(source[i] + bias) for i < n."""
    if real is float:
        fc_finish_f32(source, to, n, bias, relu)
    else:
        fc_finish_f64(source, to, n, bias, relu)


cdef inline void dots(ptrdiff_t ks, ptrdiff_t ls, const real *y, ptrdiff_t y_k, ptrdiff_t y_n, ptrdiff_t y_row,
                      const real *x, const ptrdiff_t *places, ptrdiff_t x_n, ptrdiff_t x_row, ptrdiff_t images,
                      ptrdiff_t rows, ptrdiff_t columns, real *sums, ptrdiff_t k_step, int add) noexcept nogil:
    """sums[k][l] (+)= sum over pixels of y[k] * x[places[l]]: the dots tile of dots.h."""
    if real is float:
        fc_dots_f32(ks, ls, y, y_k, y_n, y_row, x, places, x_n, x_row, images, rows, columns, sums, k_step, add)
    else:
        fc_dots_f64(ks, ls, y, y_k, y_n, y_row, x, places, x_n, x_row, images, rows, columns, sums, k_step, add)


cdef inline void transpose(const real *source, ptrdiff_t source_step, real *to, ptrdiff_t to_step,
                           ptrdiff_t n, ptrdiff_t m) noexcept nogil:
    """to[j][i] = source[i][j] for i < n, j < m."""
    if real is float:
        fc_transpose_all_f32(source, source_step, to, to_step, n, m)
    else:
        fc_transpose_all_f64(source, source_step, to, to_step, n, m)


cdef inline bint not_finite(const real *x, ptrdiff_t n) noexcept nogil:
    """Whether any of n elements is an infinity or NaN."""
    if real is float:
        return fc_not_finite_f32(x, n)
    else:
        return fc_not_finite_f64(x, n)


cdef inline void epilogue(real *rows, ptrdiff_t step, ptrdiff_t n, ptrdiff_t width, const real *bias,
                          int relu) noexcept nogil:
    """rows[i][:] = relu(rows[i][:] + bias[:]), in place; width is whole vectors."""
    if real is float:
        fc_epilogue_f32(rows, step, n, width, bias, relu)
    else:
        fc_epilogue_f64(rows, step, n, width, bias, relu)


cdef inline void add_into(real *to, const real *source, ptrdiff_t n) noexcept nogil:
    """to[i] += source[i]."""
    cdef ptrdiff_t i
    for i in range(n):
        to[i] += source[i]


cdef inline ptrdiff_t at_most(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return a if a < b else b


cdef inline ptrdiff_t at_least(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    return a if a > b else b


cdef inline ptrdiff_t ceil_div(ptrdiff_t a, ptrdiff_t b) noexcept nogil:
    """a / b rounded up, 0 where a is negative."""
    return (a + b - 1) // b if a > 0 else 0


cdef inline void copy_strided(real *to, const real *source, ptrdiff_t step, ptrdiff_t count) noexcept nogil:
    """to[i] = source[i * step]."""
    cdef ptrdiff_t i
    if step == 1:
        memcpy(to, source, <size_t>count * sizeof(real))
    elif step == 2:
        if real is float:
            fc_copy_even_f32(to, source, count)
        else:
            fc_copy_even_f64(to, source, count)
    else:
        for i in range(count):
            to[i] = source[i * step]


cdef inline void copy_padded(real *to, const real *source, ptrdiff_t before, ptrdiff_t n,
                             ptrdiff_t after) noexcept nogil:
    """Zeros, n elements of the source, zeros."""
    if real is float:
        fc_copy_padded_f32(to, source, before, n, after)
    else:
        fc_copy_padded_f64(to, source, before, n, after)


cdef inline void columns_inside(ptrdiff_t column, ptrdiff_t step, ptrdiff_t columns, ptrdiff_t count, ptrdiff_t *first,
                                ptrdiff_t *last) noexcept nogil:
    """Which of the columns column + i * step, i < count, are inside [0, columns)."""
    first[0] = at_most(ceil_div(-column, step), count)
    last[0] = at_least(at_most(ceil_div(columns - column, step), count), first[0])


cdef inline void fill_row(real *to, const real *source, ptrdiff_t step_w, ptrdiff_t column, ptrdiff_t step,
                          ptrdiff_t first, ptrdiff_t last, ptrdiff_t count) noexcept nogil:
    """to[i] = source[column + i * step] for first <= i < last, 0 for the rest of `count`; elements of the source are
    step_w apart."""
    if step * step_w == 1:
        copy_padded(to, source + (column + first if last > first else 0), first, last - first, count - last)
        return
    if step * step_w == 2:
        source += (column + first * step) * step_w if last > first else 0
        if real is float:
            fc_copy_even_padded_f32(to, source, first, last - first, count - last)
        else:
            fc_copy_even_padded_f64(to, source, first, last - first, count - last)
        return
    copy_padded(to, source, first, 0, 0)
    if last > first:
        copy_strided(to + first, source + (column + first * step) * step_w, step * step_w, last - first)
    copy_padded(to + last, source, count - last, 0, 0)


cdef inline double sum_run(const real *source, ptrdiff_t n) noexcept nogil:
    """The sum of n neighbours."""
    if real is float:
        return fc_sum_run_f32(source, n)
    else:
        return fc_sum_run_f64(source, n)
