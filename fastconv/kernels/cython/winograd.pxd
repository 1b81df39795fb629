"""What Winograd's kernels share: their task, and the transform of a block of tiles."""

from fastconv.kernels.cython.simd cimport at_most, ceil_div, fc_slots, lanes, real

cdef extern from "winograd.h" nogil:
    void fc_winograd_columns_f32(int size, const float *source, ptrdiff_t c_step, ptrdiff_t h_step, ptrdiff_t w_step,
                                 ptrdiff_t channels, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t column,
                                 ptrdiff_t columns, ptrdiff_t count, float *to)
    void fc_winograd_columns_f64(int size, const double *source, ptrdiff_t c_step, ptrdiff_t h_step, ptrdiff_t w_step,
                                 ptrdiff_t channels, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t column,
                                 ptrdiff_t columns, ptrdiff_t count, double *to)
    void fc_winograd_tiles_f32(int size, const float *columns, ptrdiff_t tiles, float *to, ptrdiff_t f_step)
    void fc_winograd_tiles_f64(int size, const double *columns, ptrdiff_t tiles, double *to, ptrdiff_t f_step)

cdef struct WinogradCall:  # what differs from call to call
    size_t source, dest, weight
    size_t packed  # transformed weights of the blocks from first_block on; 0: each item transforms its own
    size_t tiles  # transformed tiles of all blocks; 0: each item transforms its own
    size_t bias  # 0: none
    size_t scratch  # scratch_bytes for each slot: tiles, sums, pixels, weights
    ptrdiff_t first_block, last_block  # of destination channels, over all groups
    ptrdiff_t relu

cdef struct Winograd:
    WinogradCall call
    # Steps in elements along image, channel, row and column; extents.
    ptrdiff_t source_n, source_c, source_h, source_w, source_rows, source_columns
    ptrdiff_t dest_n, dest_c, dest_h, dest_w, dest_rows, dest_columns
    ptrdiff_t images, groups, group_source, group_dest
    ptrdiff_t size, first_row, first_column  # m of F(m, 3); where tile (0, 0) begins in the source
    ptrdiff_t tile_rows, tile_columns  # tiles of an image
    ptrdiff_t block_tiles, panel, run  # tiles of a block, of a panel of it; most tiles transformed together
    ptrdiff_t chunk  # blocks of destination channels multiplied together
    # Transformed tiles are [block][frequency][panel][block of channels][tile][channel], sums [block of channels][tile]
    # [frequency][2 vectors], weights [block of channels][frequency][channel][2 vectors]; steps in elements, those
    # between frequencies of an odd number of vectors, lest they meet in a few sets of a cache.
    ptrdiff_t tile_f, tile_block, sum_tile, sum_block, weight_f, weight_block
    ptrdiff_t weight_group, weight_dest, weight_source  # elements between groups, destination and source channels
    ptrdiff_t turned  # grad_input: the last tap first
    ptrdiff_t scratch_bytes, sums_offset, pixels_offset, weights_offset

cdef struct WinogradRun:
    Winograd fields
    fc_slots slots

cdef struct Place:  # of a tile
    ptrdiff_t image, row, column


cdef inline Place place_of(const Winograd *t, ptrdiff_t tile) noexcept nogil:
    cdef Place p
    p.column = tile % t.tile_columns
    p.row = tile // t.tile_columns % t.tile_rows
    p.image = tile // t.tile_columns // t.tile_rows
    return p


cdef inline ptrdiff_t run_of(const Winograd *t, Place p, ptrdiff_t left) noexcept nogil:
    """How many of the `left` tiles from p on are done together: neighbours of a row."""
    return at_most(at_most(t.run, left), t.tile_columns - p.column)


cdef inline void transform_run(const Winograd *t, const real *plane, ptrdiff_t channels, Place p, ptrdiff_t first,
                               ptrdiff_t tiles, real *columns, real *to) noexcept nogil:
    """Transform a vector of channels of some tiles of a row, the first of which is tile `first` of its block."""
    cdef ptrdiff_t row = t.first_row + p.row * t.size, column = t.first_column + p.column * t.size, few, size = t.size
    cdef ptrdiff_t panel_size = ceil_div(t.group_source, lanes(to)) * t.panel * lanes(to)
    if real is float:
        fc_winograd_columns_f32(<int>size, plane, t.source_c, t.source_h, t.source_w, channels, row, t.source_rows,
                                column, t.source_columns, tiles * size + 2, columns)
    else:
        fc_winograd_columns_f64(<int>size, plane, t.source_c, t.source_h, t.source_w, channels, row, t.source_rows,
                                column, t.source_columns, tiles * size + 2, columns)
    while tiles > 0:
        few = at_most(tiles, t.panel - first % t.panel)
        if real is float:
            fc_winograd_tiles_f32(<int>size, columns, few, to + first // t.panel * panel_size + first % t.panel * lanes(to),
                                  t.tile_f)
        else:
            fc_winograd_tiles_f64(<int>size, columns, few, to + first // t.panel * panel_size + first % t.panel * lanes(to),
                                  t.tile_f)
        columns += few * size * (size + 2) * lanes(to)
        first += few
        tiles -= few


cdef inline void transform_tiles(const Winograd *t, ptrdiff_t group, ptrdiff_t first, ptrdiff_t tiles, real *columns,
                                 real *to) noexcept nogil:
    """Transform all channels of a group of a block of tiles."""
    cdef ptrdiff_t channel = 0, done, few
    cdef const real *plane
    cdef Place p
    while channel < t.group_source:
        done = 0
        while done < tiles:
            p = place_of(t, first + done)
            few = run_of(t, p, tiles - done)
            plane = <const real *>t.call.source + p.image * t.source_n + (group * t.group_source + channel) * t.source_c
            transform_run(t, plane, t.group_source - channel, p, done, few, columns, to)
            done += few
        channel += lanes(to)
        to += t.panel * lanes(to)
