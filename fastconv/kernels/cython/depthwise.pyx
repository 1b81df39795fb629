"""Depthwise convolution: each plane gathers from one plane (or a few, if groups have several outputs).

Forward and grad_input: an item is a block of rows of one plane, or of as many small planes as fit a vector side by
side. grad_weight: an item is those channels, over all images and blocks in order; the sums of some hundred vectors
are kept in vectors, sums of these in float64.
"""

from libc.string cimport memset

from fastconv.kernels.cython.arrays cimport address
from fastconv.kernels.cython.simd cimport (
    at_least, at_most, ceil_div, fc_give_slot, fc_kernel, fc_slots, fc_take_slot, lanes, not_finite, real)

cdef extern from "simd.h" nogil:
    void fc_touch(const void *source, ptrdiff_t bytes)
    enum:
        FC_BYTES

cdef extern from "depthwise.h" nogil:
    ctypedef struct fc_planes:
        const void *x
        ptrdiff_t pitch, odd
        const ptrdiff_t *places
        ptrdiff_t taps, row_step
        const void *weights
        const void *weight
        ptrdiff_t weight_step, weight_plane
        const void *bias
        void *to
        ptrdiff_t to_row, to_plane, rows, columns, planes, slot, kernel, stride, relu
        const void *from_ "from"
        ptrdiff_t first, from_row, from_plane, from_rows, from_columns, images, from_image, to_image
    void fc_fill_planes_f32(float *to, const float *source, ptrdiff_t plane_step, ptrdiff_t row_step, ptrdiff_t first,
                            ptrdiff_t rows, ptrdiff_t source_rows, ptrdiff_t planes, ptrdiff_t slot,
                            const ptrdiff_t *phases, ptrdiff_t phase_count, ptrdiff_t stride, ptrdiff_t segment,
                            ptrdiff_t lead)
    void fc_fill_planes_f64(double *to, const double *source, ptrdiff_t plane_step, ptrdiff_t row_step, ptrdiff_t first,
                            ptrdiff_t rows, ptrdiff_t source_rows, ptrdiff_t planes, ptrdiff_t slot,
                            const ptrdiff_t *phases, ptrdiff_t phase_count, ptrdiff_t stride, ptrdiff_t segment,
                            ptrdiff_t lead)
    void fc_spread_f32(float *to, const float *source, const ptrdiff_t *order, ptrdiff_t taps, ptrdiff_t planes,
                       ptrdiff_t step, ptrdiff_t slot)
    void fc_spread_f64(double *to, const double *source, const ptrdiff_t *order, ptrdiff_t taps, ptrdiff_t planes,
                       ptrdiff_t step, ptrdiff_t slot)
    void fc_gather_f32(const fc_planes *b)
    void fc_gather_f64(const fc_planes *b)
    void fc_wide_gather_f32(const fc_planes *b)
    void fc_wide_gather_f64(const fc_planes *b)
    void fc_wide_dot_planes_f32(const fc_planes *b, void *into, double *totals)
    void fc_wide_dot_planes_f64(const fc_planes *b, void *into, double *totals)
    void fc_small_gather_f32(const fc_planes *b)
    void fc_small_gather_f64(const fc_planes *b)
    void fc_small_scatter_f32(const fc_planes *b)
    void fc_small_scatter_f64(const fc_planes *b)
    void fc_scatter_f32(const fc_planes *b)
    void fc_scatter_f64(const fc_planes *b)
    void fc_dot_planes_f32(const fc_planes *b, void *into, double *totals)
    void fc_dot_planes_f64(const fc_planes *b, void *into, double *totals)
    void fc_small_dot_planes_f32(const fc_planes *b, void *into, double *totals)
    void fc_small_dot_planes_f64(const fc_planes *b, void *into, double *totals)
    void fc_write_totals_f32(const double *totals, ptrdiff_t step, ptrdiff_t n, float *to)
    void fc_write_totals_f64(const double *totals, ptrdiff_t step, ptrdiff_t n, double *to)
    void fc_collect_f32(void *sums, ptrdiff_t n, ptrdiff_t slot, double *to)
    void fc_collect_f64(void *sums, ptrdiff_t n, ptrdiff_t slot, double *to)

cdef struct Call:  # what differs between calls
    size_t source, dest, weight, bias, scratch  # addresses; grad_weight: dest is grad_output
    size_t grad_weight, grad_bias
    ptrdiff_t relu
    ptrdiff_t exact  # some weight is not finite, and must meet nothing beyond the source
    fc_slots slots

cdef struct Depthwise:
    # fan_in planes of the source make one of the destination, or fan_out are made from it; one of both is 1.
    ptrdiff_t images, channels, fan_in, fan_out
    ptrdiff_t source_rows, source_columns, rows, columns  # the latter of the destination
    ptrdiff_t planes, slot  # of a vector; lanes from one to the next
    ptrdiff_t row_block, blocks, block_step  # rows of the destination; rows of the source from block to block
    ptrdiff_t first_row, buffer_rows, lead  # first: of block 0; zeros before the buffer
    ptrdiff_t phase_count, segment, stride_w, x_offset
    ptrdiff_t kernel, stride, odd, taps, row_step, scatter
    ptrdiff_t group  # steps of channels whose products are summed side by side
    ptrdiff_t chunk_vectors  # of products, summed in vectors before they go to float64
    ptrdiff_t touches  # grad_weight: planes come from memory, and are long
    ptrdiff_t small, wide, from_columns  # rows that fit a vector, or are read where they lie, need no buffer
    ptrdiff_t bare, turned  # weights are read where they lie; in the opposite order
    size_t phases, places, order  # int64 tables: see depthwise.h; `order` of the weights of a group
    ptrdiff_t window  # weights of an output channel; and what `exact` needs of grad_input:
    ptrdiff_t kernel_h, kernel_w, stride_h, exact_stride_w, dilation_h, dilation_w, low_h, low_w
    ptrdiff_t buffer_offset, buffer_size, weights_offset, grads_offset, sums_offset, totals_offset  # in elements
    ptrdiff_t totals_step, slot_bytes  # doubles of an output's totals; of a thread's scratch

cdef struct Run:
    Call call
    Depthwise fields


cdef inline void fill(const Depthwise *t, const real *source, ptrdiff_t block, ptrdiff_t planes, ptrdiff_t plane_step,
                      real *to) noexcept nogil:
    """Copy the rows that a block needs, with their padding."""
    cdef ptrdiff_t first = t.first_row + block * t.block_step
    if real is float:
        fc_fill_planes_f32(to, source, plane_step, t.source_columns, first, t.buffer_rows, t.source_rows, planes,
                           t.slot, <const ptrdiff_t *>t.phases, t.phase_count, t.stride_w, t.segment, t.lead)
    else:
        fc_fill_planes_f64(to, source, plane_step, t.source_columns, first, t.buffer_rows, t.source_rows, planes,
                           t.slot, <const ptrdiff_t *>t.phases, t.phase_count, t.stride_w, t.segment, t.lead)


cdef inline void spread(const Depthwise *t, const real *source, const ptrdiff_t *order, ptrdiff_t taps,
                        ptrdiff_t planes, ptrdiff_t step, real *to) noexcept nogil:
    if real is float:
        fc_spread_f32(to, source, order, taps, planes, step, t.slot)
    else:
        fc_spread_f64(to, source, order, taps, planes, step, t.slot)


cdef fc_planes describe(const Call *call, const Depthwise *t, const real *mine) noexcept nogil:
    """What is the same for all blocks."""
    cdef fc_planes b
    memset(&b, 0, sizeof(b))
    b.x = mine + t.buffer_offset + t.x_offset
    b.pitch = t.phase_count * t.segment
    b.odd = t.odd
    b.places = <const ptrdiff_t *>t.places
    b.taps = t.taps
    b.row_step = t.row_step
    b.weights = mine + t.weights_offset
    b.weight_step = -1 if t.turned else 1
    b.weight_plane = t.fan_in * t.fan_out * t.window
    b.bias = mine + t.weights_offset + t.taps * lanes(mine)
    b.to_row = t.columns
    b.to_plane = t.fan_out * t.rows * t.columns
    b.columns = t.columns
    b.slot = t.slot
    b.kernel = t.kernel
    b.stride = t.stride
    b.relu = call.relu
    b.from_row = t.source_columns
    b.from_plane = t.fan_in * t.source_rows * t.source_columns
    b.from_rows = t.source_rows
    b.from_columns = t.from_columns
    b.images = 1
    b.from_image = t.channels * b.from_plane
    b.to_image = t.channels * b.to_plane
    return b


cdef void gather_exactly(const Depthwise *t, const real *source, const real *weight, real bias, ptrdiff_t relu,
                         ptrdiff_t first, ptrdiff_t last, real *to) noexcept nogil:
    """grad_input's rows first..last of one plane, with no product but those with gradients that exist."""
    cdef ptrdiff_t grad_rows = t.source_rows, grad_columns = t.source_columns, m, r, s, p, q, h, w, i
    cdef const real *grad
    cdef real value
    for i in range(first * t.columns, last * t.columns):
        to[i] = bias
    for m in range(t.fan_in):
        for r in range(t.kernel_h):
            for s in range(t.kernel_w):
                value = weight[m * t.window + r * t.kernel_w + s]
                for p in range(grad_rows):
                    h = p * t.stride_h + r * t.dilation_h - t.low_h
                    if first <= h < last:
                        grad = source + (m * grad_rows + p) * grad_columns
                        for q in range(grad_columns):
                            w = q * t.exact_stride_w + s * t.dilation_w - t.low_w
                            if 0 <= w < t.columns:
                                to[h * t.columns + w] += grad[q] * value
    if relu:
        for i in range(first * t.columns, last * t.columns):
            to[i] = 0 if to[i] < 0 else to[i]


cdef void gather_item(const Call *call, const Depthwise *t, fc_planes *b, ptrdiff_t image, ptrdiff_t channel,
                      ptrdiff_t block, real *mine) noexcept nogil:
    """One block of rows of a step of channels."""
    cdef ptrdiff_t planes = at_most(t.planes, t.channels - channel), m, g, none = 0
    cdef ptrdiff_t source_plane = t.source_rows * t.source_columns, plane = t.rows * t.columns
    cdef real *weights = mine + t.weights_offset
    cdef real *bias = weights + t.taps * lanes(mine)
    cdef const real *source = <const real *>call.source + (image * t.channels + channel) * t.fan_in * source_plane
    cdef const real *weight = <const real *>call.weight + channel * t.fan_in * t.fan_out * t.window
    cdef const real *biases = <const real *>call.bias
    cdef real *dest = <real *>call.dest + (image * t.channels + channel) * t.fan_out * plane
    if call.exact and not_finite(weight, planes * t.fan_in * t.window):
        for g in range(planes):
            gather_exactly(t, source + g * t.fan_in * source_plane, weight + g * t.fan_in * t.window,
                           biases[channel + g] if call.bias else 0, call.relu, block * t.row_block,
                           at_most((block + 1) * t.row_block, t.rows), dest + g * plane)
        return
    b.from_ = source
    b.first = t.first_row + block * t.block_step
    for m in range(0 if t.small or t.wide else t.fan_in):
        fill(t, source + m * source_plane, block, planes, t.fan_in * source_plane,
             mine + t.buffer_offset + m * t.buffer_size)
    b.rows = at_most(t.row_block, t.rows - block * t.row_block)
    b.planes = planes
    for m in range(t.fan_out):
        if t.bare:
            b.weight = weight + m * t.window + (t.window - 1 if t.turned else 0)
        else:
            spread(t, weight + m * t.window, <const ptrdiff_t *>t.order, t.taps, planes, b.weight_plane, weights)
        if call.bias:
            spread(t, biases + channel * t.fan_out + m, &none, 1, planes, t.fan_out, bias)
        b.to = dest + m * plane + block * t.row_block * t.columns
        if real is float:
            if t.scatter and t.small:
                fc_small_scatter_f32(b)
            elif t.scatter:
                fc_scatter_f32(b)
            elif t.small:
                fc_small_gather_f32(b)
            elif t.wide:
                fc_wide_gather_f32(b)
            else:
                fc_gather_f32(b)
        else:
            if t.scatter and t.small:
                fc_small_scatter_f64(b)
            elif t.scatter:
                fc_scatter_f64(b)
            elif t.small:
                fc_small_gather_f64(b)
            elif t.wide:
                fc_wide_gather_f64(b)
            else:
                fc_gather_f64(b)


cdef inline void touch_rows(const Depthwise *t, const real *plane, ptrdiff_t first) noexcept nogil:
    """The rows of a plane that a block reads where they lie."""
    cdef ptrdiff_t begin = at_least(first, 0), end = at_most(first + t.buffer_rows, t.source_rows)
    fc_touch(plane + begin * t.source_columns, (end - begin) * t.source_columns * <ptrdiff_t>sizeof(plane[0]))


cdef void add_block(const Call *call, const Depthwise *t, fc_planes *b, ptrdiff_t image, ptrdiff_t channel,
                    ptrdiff_t block, real *mine, real *sums, double *totals) noexcept nogil:
    """Add the products of one block, of b.images images, to the sums of all outputs of some channels, and its gradients
    to the totals of grad_bias, lane by lane."""
    cdef ptrdiff_t source_plane = t.source_rows * t.source_columns, plane = t.rows * t.columns, m
    cdef ptrdiff_t[2] whole_rows = [0, t.columns]
    cdef const real *source = <const real *>call.source + (image * t.channels + channel) * source_plane
    cdef const real *grad = (<const real *>call.dest + (image * t.channels + channel) * t.fan_out * plane
                             + block * t.row_block * t.columns)
    cdef real *grads = mine + t.grads_offset  # with a vector before it
    cdef bint copied = t.columns < lanes(mine) and not t.small  # rows below a vector, side by side like the source
    b.rows = at_most(t.row_block, t.rows - block * t.row_block)
    b.from_ = source
    b.first = t.first_row + block * t.block_step
    if not call.grad_bias:
        totals = NULL
    if t.wide and t.touches:
        touch_rows(t, source, b.first)
    if not t.small and not t.wide:
        fill(t, source, block, b.planes, source_plane, mine + t.buffer_offset)
    for m in range(t.fan_out):
        b.to = <void *>(grad + m * plane)
        b.to_row = t.columns
        if t.touches:
            fc_touch(grad + m * plane, b.rows * t.columns * <ptrdiff_t>sizeof(grad[0]))
        if copied:
            if real is float:
                fc_fill_planes_f32(grads, grad + m * plane, t.fan_out * plane, t.columns, 0, b.rows, b.rows, b.planes,
                                   t.slot, whole_rows, 1, 1, lanes(mine), lanes(mine))
            else:
                fc_fill_planes_f64(grads, grad + m * plane, t.fan_out * plane, t.columns, 0, b.rows, b.rows, b.planes,
                                   t.slot, whole_rows, 1, 1, lanes(mine), lanes(mine))
            b.to = grads
            b.to_row = lanes(mine)
        if real is float:
            if t.small:
                fc_small_dot_planes_f32(b, sums, totals)
            elif t.wide:
                fc_wide_dot_planes_f32(b, sums, totals)
            else:
                fc_dot_planes_f32(b, sums, totals)
        else:
            if t.small:
                fc_small_dot_planes_f64(b, sums, totals)
            elif t.wide:
                fc_wide_dot_planes_f64(b, sums, totals)
            else:
                fc_dot_planes_f64(b, sums, totals)
        sums += t.taps * lanes(mine)
        if totals != NULL:
            totals += lanes(mine)


cdef void collect(const Depthwise *t, real *sums, double *totals) noexcept nogil:
    """Add the sums in vectors to those in float64, [tap][plane] of each output, and clear them."""
    cdef ptrdiff_t m
    for m in range(t.fan_out):
        if real is float:
            fc_collect_f32(sums + m * t.taps * lanes(sums), t.taps, t.slot, totals + m * t.totals_step)
        else:
            fc_collect_f64(sums + m * t.taps * lanes(sums), t.taps, t.slot, totals + m * t.totals_step)


cdef void write_results(const Call *call, const Depthwise *t, ptrdiff_t channel, ptrdiff_t planes,
                        const double *bias_totals, const double *totals, real *unit) noexcept nogil:
    """grad_weight and grad_bias of a step of channels."""
    cdef ptrdiff_t m, g, k, lane
    cdef double total
    for g in range(planes):
        for m in range(t.fan_out):
            k = (channel + g) * t.fan_out + m
            if real is float:
                fc_write_totals_f32(totals + m * t.totals_step + g, t.planes, t.window,
                                    <float *>call.grad_weight + k * t.window)
            else:
                fc_write_totals_f64(totals + m * t.totals_step + g, t.planes, t.window,
                                    <double *>call.grad_weight + k * t.window)
            if call.grad_bias:
                total = 0
                for lane in range(g * t.slot, (g + 1) * t.slot):
                    total += bias_totals[m * lanes(unit) + lane]
                (<real *>call.grad_bias)[k] = <real>total


cdef void dot_items(const Call *call, const Depthwise *t, fc_planes *b, ptrdiff_t first, ptrdiff_t last,
                    real *mine) noexcept nogil:
    """grad_weight and grad_bias of some neighbouring steps of channels, whose sums of vectors are 0.

    Images go round them all, so that neighbours in memory are read one after the other.
    """
    cdef ptrdiff_t block_vectors = t.row_block * ceil_div(t.columns, lanes(mine)), before = 0, vectors = 0
    cdef ptrdiff_t at_once = at_least(t.chunk_vectors // block_vectors, 1) if t.small and t.blocks == 1 else 1
    cdef ptrdiff_t sums_step = t.fan_out * t.taps * lanes(mine), bias_step = t.fan_out * lanes(mine)
    cdef ptrdiff_t step = bias_step + t.fan_out * t.totals_step, image = 0, block, item
    cdef real *sums = mine + t.sums_offset
    cdef double *totals = <double *>(mine + t.totals_offset)  # of each item: those of grad_bias, lane by lane, first
    memset(totals, 0, <size_t>((last - first) * step) * sizeof(double))
    while image < t.images:
        b.images = at_most(at_once, t.images - image)
        for item in range(first, last):
            b.planes = at_most(t.planes, t.channels - item * t.planes)
            vectors = before
            for block in range(t.blocks):
                add_block(call, t, b, image, item * t.planes, block, mine, sums + (item - first) * sums_step,
                          totals + (item - first) * step)
                vectors += b.images * block_vectors
                if vectors >= t.chunk_vectors or (block + 1 == t.blocks and image + b.images == t.images):
                    collect(t, sums + (item - first) * sums_step, totals + (item - first) * step + bias_step)
                    vectors = 0
        before = vectors
        image += b.images
    for item in range(first, last):
        write_results(call, t, item * t.planes, at_most(t.planes, t.channels - item * t.planes),
                      totals + (item - first) * step, totals + (item - first) * step + bias_step, mine)


cdef void run_items(real *unit, Run *run, bint products, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Call *call = &run.call
    cdef const Depthwise *t = &run.fields
    cdef int slot = fc_take_slot(&run.call.slots)
    cdef real *mine = <real *>(<char *>run.call.scratch + slot * run.fields.slot_bytes)
    cdef ptrdiff_t steps = ceil_div(t.channels, t.planes), item, image, step, block
    cdef fc_planes b = describe(call, t, mine)
    memset(<void *>b.bias, 0, FC_BYTES)
    if products:
        memset(mine + t.sums_offset, 0, <size_t>(t.group * t.fan_out * t.taps * FC_BYTES))  # items leave them so
        while first < last:
            dot_items(call, t, &b, first, at_most(first + t.group, last), mine)
            first += t.group
    else:  # items count blocks fastest, then steps of channels, then images
        block = first % t.blocks
        step = first // t.blocks % steps
        image = first // t.blocks // steps
        for item in range(first, last):
            gather_item(call, t, &b, image, step * t.planes, block, mine)
            block += 1
            if block == t.blocks:
                block = 0
                step += 1
                if step == steps:
                    step = 0
                    image += 1
    fc_give_slot(&run.call.slots, slot)


cdef void gather_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    run_items(<float *>NULL, <Run *>task, False, first, last)


cdef void gather_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    run_items(<double *>NULL, <Run *>task, False, first, last)


cdef void dots_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    run_items(<float *>NULL, <Run *>task, True, first, last)


cdef void dots_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    run_items(<double *>NULL, <Run *>task, True, first, last)


# -- For Python -------------------------------------------------------------------------------------

#: Bytes of a vector.
VECTOR_BYTES = FC_BYTES
#: Addresses of the range kernels: forward and grad_input; grad_weight with grad_bias.
GATHER = {"float32": <size_t><fc_kernel>gather_float32, "float64": <size_t><fc_kernel>gather_float64}
DOTS = {"float32": <size_t><fc_kernel>dots_float32, "float64": <size_t><fc_kernel>dots_float64}


def schedule_task(**fields):
    """Pack the part of a task that is the same for all calls: every field of `Depthwise`, by name."""
    cdef Depthwise schedule
    memset(&schedule, 0, sizeof(schedule))
    schedule = fields
    return (<char *>&schedule)[:sizeof(schedule)]


def call_task(source, dest, weight, bias, size_t scratch, bint relu=False, bint exact=False):
    """Pack the part before it of forward and grad_input: arrays, of which bias may be None, an address, and flags."""
    cdef Call call
    memset(&call, 0, sizeof(call))
    call.source = address(source)
    call.dest = address(dest)
    call.weight = address(weight)
    call.bias = address(bias)
    call.scratch = scratch
    call.relu = relu
    call.exact = exact
    return (<char *>&call)[:sizeof(call)]


def gradient_call_task(source, grad_output, grad_weight, grad_bias, size_t scratch):
    """The same for grad_weight; grad_bias may be None."""
    cdef Call call
    memset(&call, 0, sizeof(call))
    call.source = address(source)
    call.dest = address(grad_output)
    call.grad_weight = address(grad_weight)
    call.grad_bias = address(grad_bias)
    call.scratch = scratch
    return (<char *>&call)[:sizeof(call)]


def holds_infinity(array):
    """Whether any element is an infinity or NaN."""
    cdef ptrdiff_t n = array.size
    cdef size_t start = address(array)
    return not_finite(<float *>start, n) if array.itemsize == sizeof(float) else not_finite(<double *>start, n)
