"""grad_weight by Winograd's matrices, for 3x3 of stride 1.

Tiles of m x m gradients of the output, counted over all images, rows and columns, come in segments. Those tiles and the
tiles of the input under them are transformed; then for each of (m + 2)^2 frequencies the products of input and output
channels are summed over the tiles of the segment. After the last segment the sums are transformed into gradients
of nine taps. An item is a block of tiles of either array, or a chunk of input channels by 2 vectors of output channels.
"""

from libc.string cimport memset

from fastconv.kernels.cython.arrays cimport address
from fastconv.kernels.cython.simd cimport (
    at_most, ceil_div, fc_give_slot, fc_kernel, fc_slots, fc_take_slot, lanes, real, sum_run, transpose)
from fastconv.kernels.cython.winograd cimport Grid, Image, Place, place_of, run_of, transform_columns, transform_rows

cdef extern from "winograd.h" nogil:
    void fc_outer_f32(int vectors, const float *v, ptrdiff_t tiles, const float *d, float *sums, int add)
    void fc_outer_f64(int vectors, const double *v, ptrdiff_t tiles, const double *d, double *sums, int add)
    void fc_winograd_gradients_f32(int size, const float *sums, ptrdiff_t f_step, float *to)
    void fc_winograd_gradients_f64(int size, const double *sums, ptrdiff_t f_step, double *to)

cdef struct GradientCall:  # what differs from call to call
    size_t input, grad_output, grad_weight, grad_bias
    size_t tiles, grads  # transformed tiles of a segment of input and of grad_output
    size_t sums  # of each item, kept from segment to segment; 0: there is one segment, sums are in the slot
    size_t scratch  # scratch_bytes for each slot: pixels or taps, then sums
    ptrdiff_t first_tile, last_tile  # the segment

cdef struct Gradient:
    GradientCall call
    Image input, grad
    Grid grid
    ptrdiff_t tiles  # of all images
    ptrdiff_t groups, group_in, group_out
    ptrdiff_t segment, block_tiles, chunk  # tiles of a segment, and of an item; vectors of input channels of an item
    # Transformed tiles are [group][frequency][block of channels][tile of the segment][channel], blocks of one vector of
    # the input, 2 of grad_output; sums [frequency][input channel][2 vectors]; steps in elements.
    ptrdiff_t tile_f, tile_group, grad_f, grad_group, sum_f, sum_item
    ptrdiff_t scratch_bytes, sums_offset

cdef struct GradientRun:
    Gradient fields
    fc_slots slots

cdef enum:
    TAPS = 9
    FILTERS = 16  # input channels whose gradients are transposed together


cdef void transform_vector(const Gradient *t, const Image *a, int grad, const real *plane, ptrdiff_t channels,
                           ptrdiff_t first, ptrdiff_t tiles, real *columns, real *to, ptrdiff_t frequency_step,
                           ptrdiff_t tile_step) noexcept nogil:
    """A vector of channels of `tiles` tiles from `first` on."""
    cdef ptrdiff_t done = 0, few
    cdef Place p
    while done < tiles:
        p = place_of(&t.grid, first + done)
        few = run_of(&t.grid, p, tiles - done)
        transform_columns(&t.grid, a, grad, plane + p.image * a.n, channels, p, few, columns)
        transform_rows(&t.grid, grad, columns, few, to + done * tile_step, frequency_step, tile_step)
        done += few


cdef void transform_block(const Gradient *t, bint grad, ptrdiff_t group, ptrdiff_t block, real *columns) noexcept nogil:
    """All channels of a group of one array, for a block of tiles of the segment."""
    cdef ptrdiff_t first = block * t.block_tiles, vectors = 2 if grad else 1, step = vectors * lanes(columns), v
    cdef ptrdiff_t tiles = at_most(t.block_tiles, t.call.last_tile - t.call.first_tile - first)
    cdef ptrdiff_t channels = t.group_out if grad else t.group_in
    cdef const Image *a = &t.grad if grad else &t.input
    cdef const real *source = <const real *>(t.call.grad_output if grad else t.call.input) + group * channels * a.c
    cdef real *to = <real *>(t.call.grads if grad else t.call.tiles) + group * (t.grad_group if grad else t.tile_group)
    for v in range(ceil_div(channels, lanes(columns))):
        transform_vector(
            t, a, grad, source + v * lanes(columns) * a.c, channels - v * lanes(columns), t.call.first_tile + first,
            tiles, columns, to + (v // vectors * t.segment + first) * step + v % vectors * lanes(columns),
            t.grad_f if grad else t.tile_f, step)


cdef void transform(real *unit, GradientRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is a block of tiles of a group, of the input and then of grad_output."""
    cdef const Gradient *t = &run.fields
    cdef int slot = fc_take_slot(&run.slots)
    cdef real *columns = <real *>(<char *>t.call.scratch + slot * t.scratch_bytes)
    cdef ptrdiff_t blocks = ceil_div(t.call.last_tile - t.call.first_tile, t.block_tiles), item, place
    for item in range(first, last):
        place = item % (t.groups * blocks)
        transform_block(t, item >= t.groups * blocks, place // blocks, place % blocks, columns)
    fc_give_slot(&run.slots, slot)


cdef void multiply(const Gradient *t, const real *tiles, const real *grads, ptrdiff_t vectors, int grad_vectors,
                   real *sums) noexcept nogil:
    """Add the products of `vectors` of input channels and one or two of output channels."""
    cdef ptrdiff_t frequencies = (t.grid.size + 2) * (t.grid.size + 2), count = t.call.last_tile - t.call.first_tile
    cdef ptrdiff_t f, c, size = lanes(sums) * 2 * lanes(sums)
    cdef int add = t.call.first_tile > 0
    for f in range(frequencies):
        for c in range(vectors):
            if real is float:
                fc_outer_f32(grad_vectors, tiles + f * t.tile_f + c * t.segment * lanes(sums), count, grads + f * t.grad_f,
                             sums + f * t.sum_f + c * size, add)
            else:
                fc_outer_f64(grad_vectors, tiles + f * t.tile_f + c * t.segment * lanes(sums), count, grads + f * t.grad_f,
                             sums + f * t.sum_f + c * size, add)


cdef void finish(const Gradient *t, const real *sums, ptrdiff_t sources, ptrdiff_t dests, real *taps,
                 real *grad_weight) noexcept nogil:
    """Write the gradients of some input and output channels."""
    cdef ptrdiff_t v, c, first, few
    for v in range(ceil_div(dests, lanes(sums))):
        first = 0
        while first < sources:
            few = at_most(FILTERS, sources - first)
            for c in range(few):
                if real is float:
                    fc_winograd_gradients_f32(<int>t.grid.size, sums + (2 * (first + c) + v) * lanes(sums), t.sum_f,
                                              taps + c * TAPS * lanes(sums))
                else:
                    fc_winograd_gradients_f64(<int>t.grid.size, sums + (2 * (first + c) + v) * lanes(sums), t.sum_f,
                                              taps + c * TAPS * lanes(sums))
            transpose(taps, lanes(sums), grad_weight + (v * lanes(sums) * t.group_in + first) * TAPS, t.group_in * TAPS,
                      few * TAPS, at_most(lanes(sums), dests - v * lanes(sums)))
            first += few


cdef void contract(real *unit, GradientRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is a chunk of input channels by 2 vectors of output channels of a group."""
    cdef const Gradient *t = &run.fields
    cdef int slot = fc_take_slot(&run.slots)
    cdef char *mine = <char *>t.call.scratch + slot * t.scratch_bytes
    cdef ptrdiff_t width = 2 * lanes(unit), vectors = ceil_div(t.group_in, lanes(unit)), chunks = ceil_div(vectors, t.chunk)
    cdef ptrdiff_t blocks = ceil_div(t.group_out, width), item, c, k, group, dests, sources
    cdef real *sums
    for item in range(first, last):
        c = item % chunks * t.chunk
        k = item // chunks % blocks
        group = item // chunks // blocks
        dests = at_most(width, t.group_out - k * width)
        sources = at_most(t.chunk * lanes(unit), t.group_in - c * lanes(unit))
        sums = <real *>t.call.sums + item * t.sum_item if t.call.sums else <real *>(mine + t.sums_offset)
        multiply(t, <const real *>t.call.tiles + group * t.tile_group + c * t.segment * lanes(unit),
                 <const real *>t.call.grads + group * t.grad_group + k * t.segment * width, ceil_div(sources, lanes(unit)),
                 <int>ceil_div(dests, lanes(unit)), sums)
        if t.call.last_tile == t.tiles:
            finish(t, sums, sources, dests, <real *>mine, <real *>t.call.grad_weight
                   + ((group * t.group_out + k * width) * t.group_in + c * lanes(unit)) * TAPS)
    fc_give_slot(&run.slots, slot)


cdef void sum_channels(real *unit, GradientRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """grad_bias. An item is one output channel."""
    cdef const Gradient *t = &run.fields
    cdef ptrdiff_t images = t.tiles // (t.grid.rows * t.grid.columns), pixels = t.grad.rows * t.grad.columns, item, n, i
    cdef const real *plane
    cdef double total
    for item in range(first, last):
        total = 0
        for n in range(images):
            plane = <const real *>t.call.grad_output + n * t.grad.n + item * t.grad.c
            if t.grad.w == 1:
                total += sum_run(plane, pixels)
            else:
                for i in range(pixels):
                    total += plane[i * t.grad.w]
        (<real *>t.call.grad_bias)[item] = <real>total


cdef void transform_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    transform(<float *>NULL, <GradientRun *>task, first, last)


cdef void transform_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    transform(<double *>NULL, <GradientRun *>task, first, last)


cdef void contract_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    contract(<float *>NULL, <GradientRun *>task, first, last)


cdef void contract_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    contract(<double *>NULL, <GradientRun *>task, first, last)


cdef void sum_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    sum_channels(<float *>NULL, <GradientRun *>task, first, last)


cdef void sum_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    sum_channels(<double *>NULL, <GradientRun *>task, first, last)


# -- For Python -------------------------------------------------------------------------------------

#: Addresses of the range kernels.
TRANSFORM = {"float32": <size_t><fc_kernel>transform_float32, "float64": <size_t><fc_kernel>transform_float64}
CONTRACT = {"float32": <size_t><fc_kernel>contract_float32, "float64": <size_t><fc_kernel>contract_float64}
SUM = {"float32": <size_t><fc_kernel>sum_float32, "float64": <size_t><fc_kernel>sum_float64}


def gradient_task(**fields):
    """Pack what a schedule knows of a task: every field of `Gradient` but `call`, by name."""
    cdef GradientRun run
    memset(&run, 0, sizeof(run))
    run.fields = fields | {"call": run.fields.call}
    return (<char *>&run)[sizeof(GradientCall):sizeof(run)]


def gradient_call(input, grad_output, grad_weight, grad_bias, size_t tiles, size_t grads, size_t sums, size_t scratch,
                  ptrdiff_t first_tile, ptrdiff_t last_tile):
    """Pack what comes before it in each call: arrays (None for no grad_bias), addresses, and the segment."""
    cdef GradientCall call = GradientCall(
        address(input), address(grad_output), address(grad_weight), address(grad_bias), tiles, grads, sums, scratch,
        first_tile, last_tile)
    return (<char *>&call)[:sizeof(call)]
