"""What Winograd's kernels share: their task, and the transform of a block of tiles."""

from fastconv.kernels.cython.simd cimport at_most, ceil_div, fc_slots, lanes, real

cdef extern from "winograd.h" nogil:
    void fc_winograd_columns_f32(int size, int grad, const float *source, ptrdiff_t c_step, ptrdiff_t h_step,
                                 ptrdiff_t w_step, ptrdiff_t channels, ptrdiff_t row, ptrdiff_t rows,
                                 ptrdiff_t column, ptrdiff_t columns, ptrdiff_t count, float *to)
    void fc_winograd_columns_f64(int size, int grad, const double *source, ptrdiff_t c_step, ptrdiff_t h_step,
                                 ptrdiff_t w_step, ptrdiff_t channels, ptrdiff_t row, ptrdiff_t rows,
                                 ptrdiff_t column, ptrdiff_t columns, ptrdiff_t count, double *to)
    void fc_winograd_tiles_f32(int size, int grad, const float *columns, ptrdiff_t tiles, float *to, ptrdiff_t f_step,
                               ptrdiff_t t_step)
    void fc_winograd_tiles_f64(int size, int grad, const double *columns, ptrdiff_t tiles, double *to,
                               ptrdiff_t f_step, ptrdiff_t t_step)

cdef struct Image:  # an array of images
    # Steps in elements along image, channel, row and column; extents; where tile (0, 0) begins.
    ptrdiff_t n, c, h, w, rows, columns, first_row, first_column

cdef struct Grid:  # tiles of all images
    ptrdiff_t size, rows, columns  # m of F(m, 3); tiles of an image
    ptrdiff_t run  # most tiles that are transformed together

cdef struct Place:  # of a tile
    ptrdiff_t image, row, column


cdef inline Place place_of(const Grid *g, ptrdiff_t tile) noexcept nogil:
    cdef Place p
    p.column = tile % g.columns
    p.row = tile // g.columns % g.rows
    p.image = tile // g.columns // g.rows
    return p


cdef inline ptrdiff_t run_of(const Grid *g, Place p, ptrdiff_t left) noexcept nogil:
    """How many of the `left` tiles from p on are done together: neighbours of a row."""
    return at_most(at_most(g.run, left), g.columns - p.column)


cdef inline void transform_columns(const Grid *g, const Image *a, int grad, const real *plane, ptrdiff_t channels, Place p,
                                   ptrdiff_t tiles, real *columns) noexcept nogil:
    """Transform the columns of some tiles of a row, of a vector of channels."""
    cdef ptrdiff_t row = a.first_row + p.row * g.size, column = a.first_column + p.column * g.size
    cdef ptrdiff_t count = tiles * g.size + (0 if grad else 2)
    if real is float:
        fc_winograd_columns_f32(<int>g.size, grad, plane, a.c, a.h, a.w, channels, row, a.rows, column, a.columns,
                                count, columns)
    else:
        fc_winograd_columns_f64(<int>g.size, grad, plane, a.c, a.h, a.w, channels, row, a.rows, column, a.columns,
                                count, columns)


cdef inline void transform_rows(const Grid *g, int grad, const real *columns, ptrdiff_t tiles, real *to,
                                ptrdiff_t frequency_step, ptrdiff_t tile_step) noexcept nogil:
    """Then their rows: to[frequency][tile]."""
    if real is float:
        fc_winograd_tiles_f32(<int>g.size, grad, columns, tiles, to, frequency_step, tile_step)
    else:
        fc_winograd_tiles_f64(<int>g.size, grad, columns, tiles, to, frequency_step, tile_step)
