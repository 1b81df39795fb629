"""Winograd's convolution, 3x3 of stride 1: forward and grad_input, which is forward with turned and transposed weights.

Tiles of m x m results, counted over all images, rows and columns of the destination, come in blocks. A block is
transformed (one matrix for each of (m + 2)^2 frequencies: tiles by source channels), multiplied by the transformed
weights (source by destination channels), and transformed back. Vectors run over channels throughout.

Where weights are few, an item is a block of tiles: all three steps, in cache. Where weights outgrow the tiles, all tiles
are transformed first, and an item is a chunk of blocks of 2 vectors of destination channels: it transforms its own
weights and multiplies all tiles by them.
"""

from libc.string cimport memcpy, memset

from fastconv.kernels.cython.arrays cimport address
from fastconv.kernels.cython.simd cimport (
    FC_BYTES, FC_ROWS, at_least, at_most, ceil_div, fc_give_slot, fc_kernel, fc_slots, fc_take_slot, lanes, real,
    transpose)
from fastconv.kernels.cython.winograd cimport Grid, Image, Place, place_of, run_of, transform_columns, transform_rows

cdef extern from "winograd.h" nogil:
    void fc_product_f32(ptrdiff_t rows, int vectors, const float *v, ptrdiff_t v_step, ptrdiff_t channels,
                        const float *u, float *sums, ptrdiff_t sum_step)
    void fc_product_f64(ptrdiff_t rows, int vectors, const double *v, ptrdiff_t v_step, ptrdiff_t channels,
                        const double *u, double *sums, ptrdiff_t sum_step)
    void fc_winograd_outputs_f32(int size, const float *sums, ptrdiff_t tile_step, ptrdiff_t f_step, ptrdiff_t tiles,
                                 const float *bias, int relu, float *to, ptrdiff_t row_step)
    void fc_winograd_outputs_f64(int size, const double *sums, ptrdiff_t tile_step, ptrdiff_t f_step, ptrdiff_t tiles,
                                 const double *bias, int relu, double *to, ptrdiff_t row_step)
    void fc_winograd_filter_f32(int size, const float *taps, int turned, float *to, ptrdiff_t f_step)
    void fc_winograd_filter_f64(int size, const double *taps, int turned, double *to, ptrdiff_t f_step)
    void fc_pixels_out_f32(const float *source, ptrdiff_t n, float *to, ptrdiff_t c_step, ptrdiff_t w_step,
                           ptrdiff_t channels)
    void fc_pixels_out_f64(const double *source, ptrdiff_t n, double *to, ptrdiff_t c_step, ptrdiff_t w_step,
                           ptrdiff_t channels)

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
    Image source, dest
    Grid grid
    ptrdiff_t tiles  # of all images
    ptrdiff_t groups, group_source, group_dest
    ptrdiff_t block_tiles, panel  # tiles of a block, of a panel of it
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

cdef enum:
    TAPS = 9
    FILTERS = 16  # source channels whose weights are transposed together: each line of theirs is then read once


cdef void transform_run(const Winograd *t, const real *columns, ptrdiff_t first, ptrdiff_t tiles, real *to) noexcept nogil:
    """Lay tiles of a row, of which `first` is the number of the first in its block, into the panels of a block."""
    cdef ptrdiff_t panel_size = ceil_div(t.group_source, lanes(to)) * t.panel * lanes(to), few
    while tiles > 0:
        few = at_most(tiles, t.panel - first % t.panel)
        transform_rows(&t.grid, 0, columns, few, to + first // t.panel * panel_size + first % t.panel * lanes(to),
                       t.tile_f, lanes(to))
        columns += few * t.grid.size * (t.grid.size + 2) * lanes(to)
        first += few
        tiles -= few


cdef void transform_tiles(const Winograd *t, ptrdiff_t group, ptrdiff_t first, ptrdiff_t tiles, real *columns,
                          real *to) noexcept nogil:
    """Transform all channels of a group of a block of tiles."""
    cdef ptrdiff_t channel = 0, done, few
    cdef const real *plane
    cdef Place p
    while channel < t.group_source:
        done = 0
        while done < tiles:
            p = place_of(&t.grid, first + done)
            few = run_of(&t.grid, p, tiles - done)
            plane = <const real *>t.call.source + p.image * t.source.n + (group * t.group_source + channel) * t.source.c
            transform_columns(&t.grid, &t.source, 0, plane, t.group_source - channel, p, few, columns)
            transform_run(t, columns, done, few, to)
            done += few
        channel += lanes(to)
        to += t.panel * lanes(to)


cdef void transpose_weights(const Winograd *t, const real *weight, ptrdiff_t sources, ptrdiff_t dests,
                            real *taps) noexcept nogil:
    """taps[source channel][tap][destination channel] of up to FILTERS by a vector of channels, of an OIHW weight."""
    cdef ptrdiff_t c
    if t.weight_source == TAPS:
        transpose(weight, t.weight_dest, taps, lanes(taps), dests, sources * TAPS)
        return
    for c in range(sources):
        transpose(weight + c * t.weight_source, TAPS, taps + c * TAPS * lanes(taps), lanes(taps), dests, TAPS)


cdef void transform_weights(const Winograd *t, ptrdiff_t item, real *to) noexcept nogil:
    """The weights of a block of destination channels."""
    cdef ptrdiff_t blocks = ceil_div(t.group_dest, 2 * lanes(to)), block = item % blocks, v, c = 0, i, dests, sources
    cdef ptrdiff_t vectors = at_most(2, ceil_div(t.group_dest - block * 2 * lanes(to), lanes(to)))
    cdef real[FILTERS * TAPS * 16] taps  # of a vector of destination channels
    cdef const real *weight = (<const real *>t.call.weight + item // blocks * t.weight_group
                               + 2 * block * lanes(to) * t.weight_dest)
    memset(taps, 0, sizeof(taps))
    while c < t.group_source:
        sources = at_most(FILTERS, t.group_source - c)
        for v in range(vectors):
            dests = at_most(t.group_dest - (2 * block + v) * lanes(to), lanes(to))
            transpose_weights(t, weight + v * lanes(to) * t.weight_dest + c * t.weight_source, sources, dests, taps)
            for i in range(sources):
                if real is float:
                    fc_winograd_filter_f32(<int>t.grid.size, taps + i * TAPS * lanes(to), <int>t.turned,
                                           to + (2 * (c + i) + v) * lanes(to), t.weight_f)
                else:
                    fc_winograd_filter_f64(<int>t.grid.size, taps + i * TAPS * lanes(to), <int>t.turned,
                                           to + (2 * (c + i) + v) * lanes(to), t.weight_f)
        c += sources


cdef void multiply(const Winograd *t, const real *tiles, ptrdiff_t count, const real *weights, ptrdiff_t block,
                   ptrdiff_t blocks, real *sums) noexcept nogil:
    """The sums of `count` tiles for some blocks of destination channels, frequency after frequency."""
    cdef ptrdiff_t frequencies = (t.grid.size + 2) * (t.grid.size + 2), f, k, first, rows, vectors
    cdef ptrdiff_t step = t.panel * lanes(sums), panel_size = ceil_div(t.group_source, lanes(sums)) * step
    cdef const real *u
    cdef real *to
    for f in range(frequencies):
        for k in range(blocks):
            u = weights + k * t.weight_block + f * t.weight_f
            vectors = ceil_div(t.group_dest - (block + k) * 2 * lanes(sums), lanes(sums))
            first = 0
            while first < count:
                rows = at_most(t.panel, count - first)
                to = sums + k * t.sum_block + first * t.sum_tile + f * 2 * lanes(sums)
                if real is float:
                    fc_product_f32(rows, 1 if vectors == 1 else 2, tiles + f * t.tile_f + first // t.panel * panel_size,
                                   step, t.group_source, u, to, t.sum_tile)
                else:
                    fc_product_f64(rows, 1 if vectors == 1 else 2, tiles + f * t.tile_f + first // t.panel * panel_size,
                                   step, t.group_source, u, to, t.sum_tile)
                first += rows


cdef void finish_run(const Winograd *t, Place p, ptrdiff_t tiles, ptrdiff_t channel, ptrdiff_t channels,
                     const real *sums, real *pixels) noexcept nogil:
    """Transform a vector of channels of some tiles of a row back, and write them."""
    cdef ptrdiff_t size = t.grid.size, row_step = tiles * size * lanes(sums), i
    cdef ptrdiff_t rows = at_most(size, t.dest.rows - p.row * size)
    cdef ptrdiff_t columns = at_most(tiles * size, t.dest.columns - p.column * size)
    cdef real[16] bias
    cdef real *to = (<real *>t.call.dest + p.image * t.dest.n + channel * t.dest.c + p.row * size * t.dest.h
                     + p.column * size * t.dest.w)
    if t.call.bias:
        memset(bias, 0, sizeof(bias))
        memcpy(bias, <const real *>t.call.bias + channel, <size_t>channels * sizeof(real))
    if real is float:
        fc_winograd_outputs_f32(<int>size, sums, t.sum_tile, 2 * lanes(sums), tiles, bias if t.call.bias else NULL,
                                <int>t.call.relu, pixels, row_step)
    else:
        fc_winograd_outputs_f64(<int>size, sums, t.sum_tile, 2 * lanes(sums), tiles, bias if t.call.bias else NULL,
                                <int>t.call.relu, pixels, row_step)
    for i in range(rows):
        if real is float:
            fc_pixels_out_f32(pixels + i * row_step, columns, to + i * t.dest.h, t.dest.c, t.dest.w, channels)
        else:
            fc_pixels_out_f64(pixels + i * row_step, columns, to + i * t.dest.h, t.dest.c, t.dest.w, channels)


cdef void finish(const Winograd *t, ptrdiff_t group, ptrdiff_t block, ptrdiff_t first, ptrdiff_t tiles,
                 const real *sums, real *pixels) noexcept nogil:
    """Write a block of destination channels of a block of tiles."""
    cdef ptrdiff_t channel = block * 2 * lanes(sums), v, channels, done = 0, few
    cdef Place p
    while done < tiles:
        p = place_of(&t.grid, first + done)
        few = run_of(&t.grid, p, tiles - done)
        for v in range(2):
            channels = at_most(t.group_dest - channel - v * lanes(sums), lanes(sums))
            if channels > 0:
                finish_run(t, p, few, group * t.group_dest + channel + v * lanes(sums), channels,
                           sums + done * t.sum_tile + v * lanes(sums), pixels)
        done += few


cdef void compute(const Winograd *t, ptrdiff_t group, ptrdiff_t block, ptrdiff_t blocks, ptrdiff_t first,
                  ptrdiff_t tiles, const real *transformed, const real *weights, real *sums, real *pixels) noexcept nogil:
    """Some blocks of destination channels of a block of transformed tiles."""
    cdef ptrdiff_t k = 0, few, i
    while k < blocks:
        few = at_most(t.chunk, blocks - k)
        multiply(t, transformed, tiles, weights + k * t.weight_block, block + k, few, sums)
        for i in range(few):
            finish(t, group, block + k + i, first, tiles, sums + i * t.sum_block, pixels)
        k += few


cdef void fused(real *unit, WinogradRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is a block of tiles of a group, for those of its destination channels whose weights are packed."""
    cdef const Winograd *t = &run.fields
    cdef int slot = fc_take_slot(&run.slots)
    cdef char *mine = <char *>t.call.scratch + slot * t.scratch_bytes
    cdef ptrdiff_t blocks = ceil_div(t.group_dest, 2 * lanes(unit))
    cdef ptrdiff_t tile_blocks = ceil_div(t.tiles, t.block_tiles), item, group, tile, count, begin, end
    cdef const real *weights
    cdef real *pixels = <real *>(mine + t.pixels_offset)
    for item in range(first, last):
        group = t.call.first_block // blocks + item // tile_blocks
        tile = item % tile_blocks * t.block_tiles
        count = at_most(t.block_tiles, t.tiles - tile)
        transform_tiles(t, group, tile, count, pixels, <real *>mine)
        begin = at_least(t.call.first_block - group * blocks, 0)
        end = at_most(t.call.last_block - group * blocks, blocks)
        weights = <const real *>t.call.packed + (group * blocks + begin - t.call.first_block) * t.weight_block
        compute(t, group, begin, end - begin, tile, count, <const real *>mine, weights,
                <real *>(mine + t.sums_offset), pixels)
    fc_give_slot(&run.slots, slot)


cdef void pack(real *unit, WinogradRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is a block of destination channels."""
    cdef const Winograd *t = &run.fields
    cdef ptrdiff_t item
    for item in range(first, last):
        transform_weights(t, t.call.first_block + item, <real *>t.call.packed + item * t.weight_block)


cdef void transform(real *unit, WinogradRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is a block of tiles of a group."""
    cdef const Winograd *t = &run.fields
    cdef int slot = fc_take_slot(&run.slots)
    cdef char *mine = <char *>t.call.scratch + slot * t.scratch_bytes
    cdef ptrdiff_t tile_blocks = ceil_div(t.tiles, t.block_tiles), item
    cdef ptrdiff_t tile
    for item in range(first, last):
        tile = item % tile_blocks * t.block_tiles
        transform_tiles(t, item // tile_blocks, tile, at_most(t.block_tiles, t.tiles - tile),
                        <real *>(mine + t.pixels_offset), <real *>t.call.tiles + item * t.tile_block)
    fc_give_slot(&run.slots, slot)


cdef void staged(real *unit, WinogradRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is a chunk of blocks of destination channels, for all tiles."""
    cdef const Winograd *t = &run.fields
    cdef int slot = fc_take_slot(&run.slots)
    cdef char *mine = <char *>t.call.scratch + slot * t.scratch_bytes
    cdef ptrdiff_t blocks = ceil_div(t.group_dest, 2 * lanes(unit)), chunks = ceil_div(blocks, t.chunk)
    cdef ptrdiff_t tile_blocks = ceil_div(t.tiles, t.block_tiles), item, group, block, few, b
    cdef const real *transformed
    cdef real *weights
    for item in range(first, last):
        group = item // chunks
        block = item % chunks * t.chunk
        few = at_most(t.chunk, blocks - block)
        transformed = <const real *>t.call.tiles + group * tile_blocks * t.tile_block
        if t.call.packed:
            weights = <real *>t.call.packed + (group * blocks + block) * t.weight_block
        else:
            weights = <real *>(mine + t.weights_offset)
            for b in range(few):
                transform_weights(t, group * blocks + block + b, weights + b * t.weight_block)
        for b in range(tile_blocks):
            compute(t, group, block, few, b * t.block_tiles,
                    at_most(t.block_tiles, t.tiles - b * t.block_tiles), transformed + b * t.tile_block, weights,
                    <real *>(mine + t.sums_offset), <real *>(mine + t.pixels_offset))
    fc_give_slot(&run.slots, slot)


cdef void fused_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    fused(<float *>NULL, <WinogradRun *>task, first, last)


cdef void fused_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    fused(<double *>NULL, <WinogradRun *>task, first, last)


cdef void pack_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    pack(<float *>NULL, <WinogradRun *>task, first, last)


cdef void pack_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    pack(<double *>NULL, <WinogradRun *>task, first, last)


cdef void transform_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    transform(<float *>NULL, <WinogradRun *>task, first, last)


cdef void transform_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    transform(<double *>NULL, <WinogradRun *>task, first, last)


cdef void staged_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    staged(<float *>NULL, <WinogradRun *>task, first, last)


cdef void staged_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    staged(<double *>NULL, <WinogradRun *>task, first, last)


# -- For Python -------------------------------------------------------------------------------------

#: Bytes of a vector.
VECTOR_BYTES = FC_BYTES
#: Rows of the register tile.
TILE_ROWS = FC_ROWS
#: Addresses of the range kernels: of items that are blocks of destination channels, blocks of tiles of each group (those
#: two), and blocks of destination channels.
PACK = {"float32": <size_t><fc_kernel>pack_float32, "float64": <size_t><fc_kernel>pack_float64}
FUSED = {"float32": <size_t><fc_kernel>fused_float32, "float64": <size_t><fc_kernel>fused_float64}
TRANSFORM = {"float32": <size_t><fc_kernel>transform_float32, "float64": <size_t><fc_kernel>transform_float64}
STAGED = {"float32": <size_t><fc_kernel>staged_float32, "float64": <size_t><fc_kernel>staged_float64}


def winograd_task(**fields):
    """Pack what a schedule knows of a task: every field of `Winograd` but `call`, by name."""
    cdef WinogradRun run
    memset(&run, 0, sizeof(run))
    run.fields = fields | {"call": run.fields.call}
    return (<char *>&run)[sizeof(WinogradCall):sizeof(run)]


def winograd_call(source, weight, dest, size_t packed, size_t tiles, bias, size_t scratch, ptrdiff_t first_block=0,
                  ptrdiff_t last_block=0, bint relu=False):
    """Pack what comes before it in each call: arrays (None for no bias), addresses, and flags."""
    cdef WinogradCall call = WinogradCall(
        address(source), address(dest), address(weight), packed, tiles, address(bias), scratch, first_block, last_block,
        relu)
    return (<char *>&call)[:sizeof(call)]
