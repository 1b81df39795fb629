"""Depthwise convolution of channels-last images, one input and one output channel in a group.

An item of forward and grad_input is a row of the destination and a block of its channels; of grad_weight some rows of
grad_output (a part) and a block of channels. A row is walked in runs of pixels with the same taps; where a tap is
outside, a pixel is a run of its own, and the tap a row of zeros (in grad_input: none).
"""

from libc.string cimport memset

from fastconv.kernels.cython.arrays cimport address
from fastconv.kernels.cython.simd cimport (
    at_least, at_most, ceil_div, columns_inside, fc_give_slot, fc_kernel, fc_slots, fc_take_slot, real)

cdef extern from "depthwise_channels.h" nogil:
    enum:
        FC_BYTES
        FC_RUN
    void fc_gather_run_f32(ptrdiff_t pixels, const float *const *sources, const float *const *weights, ptrdiff_t taps,
                           ptrdiff_t source_step, const float *bias, float *to, ptrdiff_t to_step, ptrdiff_t n, int relu)
    void fc_gather_run_f64(ptrdiff_t pixels, const double *const *sources, const double *const *weights, ptrdiff_t taps,
                           ptrdiff_t source_step, const double *bias, double *to, ptrdiff_t to_step, ptrdiff_t n,
                           int relu)
    void fc_dot_run_f32(const float *const *sources, ptrdiff_t taps, ptrdiff_t source_step, const float *grad,
                        ptrdiff_t grad_step, ptrdiff_t pixels, ptrdiff_t n, float *sums, ptrdiff_t width)
    void fc_dot_run_f64(const double *const *sources, ptrdiff_t taps, ptrdiff_t source_step, const double *grad,
                        ptrdiff_t grad_step, ptrdiff_t pixels, ptrdiff_t n, double *sums, ptrdiff_t width)

cdef struct Call:  # addresses; weight: [tap][channel]; grad_weight: dest is grad_output
    size_t source, dest, weight, bias, zeros, scratch  # bias and zeros: a value for each channel
    size_t totals, bias_totals  # of grad_weight, in double: [part][tap][channel]; [part][channel] or none
    ptrdiff_t relu
    fc_slots slots

cdef struct Channels:
    ptrdiff_t images, channels, block, blocks  # channels of an item; items beside each other
    ptrdiff_t source_rows, source_columns, rows, columns  # the latter of the destination
    ptrdiff_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, low_h, low_w
    ptrdiff_t turned  # grad_input
    ptrdiff_t parts, part_rows, chunk_pixels  # of grad_weight; pixels summed before they go to float64
    ptrdiff_t sums_offset, slot_bytes

cdef struct Run:
    Call call
    Channels fields

cdef struct Taps:  # a list of them
    ptrdiff_t count
    const void **sources
    const void **weights

cdef struct Place:  # what an item works on
    ptrdiff_t image, row, channel, n


cdef inline bint met(const Channels *t, ptrdiff_t place, ptrdiff_t stride, ptrdiff_t *at) noexcept nogil:
    """Where a destination meets the source through a tap; `place` is their distance on the finer of both grids."""
    if not t.turned:
        at[0] = place
        return True
    at[0] = place // stride  # exact, or not used
    return place % stride == 0


cdef inline ptrdiff_t distance(const Channels *t, ptrdiff_t at, ptrdiff_t stride, ptrdiff_t low,
                               ptrdiff_t tap) noexcept nogil:
    return at + low - tap if t.turned else at * stride - low + tap


cdef void list_taps(const Call *call, const Channels *t, const Place *place, ptrdiff_t phase, ptrdiff_t i, real *unit,
                    Taps *taps) noexcept nogil:
    """The taps of pixel i of a phase."""
    cdef ptrdiff_t r, s, h, w, step = 1 if t.turned else t.stride_w
    cdef const real *source = (<const real *>call.source + place.image * t.source_rows * t.source_columns * t.channels
                               + place.channel)
    cdef const real *weight = <const real *>call.weight + place.channel
    cdef bint outside
    taps.count = 0
    for r in range(t.kernel_h):
        if not met(t, distance(t, place.row, t.stride_h, t.low_h, r * t.dilation_h), t.stride_h, &h):
            continue
        for s in range(t.kernel_w):
            if not met(t, distance(t, phase, t.stride_w, t.low_w, s * t.dilation_w), t.stride_w, &w):
                continue
            w += i * step
            outside = not (0 <= h < t.source_rows and 0 <= w < t.source_columns)
            if outside and t.turned:
                continue
            if outside:
                taps.sources[taps.count] = <const real *>call.zeros + place.channel
            else:
                taps.sources[taps.count] = source + (h * t.source_columns + w) * t.channels
            taps.weights[taps.count] = weight + (r * t.kernel_w + s) * t.channels
            taps.count += 1


cdef void inside(const Channels *t, ptrdiff_t row, ptrdiff_t phase, ptrdiff_t count, ptrdiff_t *first,
                 ptrdiff_t *last) noexcept nogil:
    """Of `count` pixels of a phase of a row, those that may share a run: whose taps are all inside (in grad_input those
    of rows that exist)."""
    cdef ptrdiff_t s, w, begin, end, top = row * t.stride_h - t.low_h
    first[0], last[0] = 0, count
    if not t.turned and not (0 <= top and top + (t.kernel_h - 1) * t.dilation_h < t.source_rows):
        last[0] = 0
        return
    for s in range(t.kernel_w):
        if met(t, distance(t, phase, t.stride_w, t.low_w, s * t.dilation_w), t.stride_w, &w):
            columns_inside(w, 1 if t.turned else t.stride_w, t.source_columns, count, &begin, &end)
            first[0], last[0] = at_least(first[0], begin), at_most(last[0], end)


cdef void gather_row(const Call *call, const Channels *t, const Place *place, real *unit, Taps *taps) noexcept nogil:
    cdef ptrdiff_t phases = at_most(t.stride_w, t.columns) if t.turned else 1, step = t.stride_w if t.turned else 1
    cdef ptrdiff_t source_step = t.channels if t.turned else t.stride_w * t.channels
    cdef ptrdiff_t phase, i, count, first, last, pixels
    cdef const real *bias = <const real *>(call.bias if call.bias else call.zeros) + place.channel
    cdef real *dest = (<real *>call.dest + (place.image * t.rows + place.row) * t.columns * t.channels + place.channel)
    for phase in range(phases):
        count = ceil_div(t.columns - phase, step)
        inside(t, place.row, phase, count, &first, &last)
        i = 0
        while i < count:
            pixels = FC_RUN if first <= i and i + FC_RUN <= last else 1
            list_taps(call, t, place, phase, i, unit, taps)
            if real is float:
                fc_gather_run_f32(pixels, <const float **>taps.sources, <const float **>taps.weights, taps.count,
                                  source_step, bias, dest + (phase + i * step) * t.channels, step * t.channels, place.n,
                                  call.relu)
            else:
                fc_gather_run_f64(pixels, <const double **>taps.sources, <const double **>taps.weights, taps.count,
                                  source_step, bias, dest + (phase + i * step) * t.channels, step * t.channels, place.n,
                                  call.relu)
            i += pixels


cdef inline void dot_run(const Channels *t, const Taps *taps, const real *grad, ptrdiff_t pixels, ptrdiff_t n,
                         real *sums) noexcept nogil:
    if real is float:
        fc_dot_run_f32(<const float **>taps.sources, taps.count, t.stride_w * t.channels, grad, t.channels, pixels, n,
                       sums, t.block)
    else:
        fc_dot_run_f64(<const double **>taps.sources, taps.count, t.stride_w * t.channels, grad, t.channels, pixels, n,
                       sums, t.block)


cdef void flush(const Channels *t, ptrdiff_t n, real *sums, double *totals) noexcept nogil:
    """Add sums[tap][channel] to those in float64, and clear them."""
    cdef ptrdiff_t tap, c
    for tap in range(t.kernel_h * t.kernel_w):
        for c in range(n):
            totals[tap * t.channels + c] += sums[tap * t.block + c]
            sums[tap * t.block + c] = 0


cdef void dot_row(const Call *call, const Channels *t, const Place *place, real *sums, double *totals,
                  ptrdiff_t *pixels, Taps *taps) noexcept nogil:
    """Add the products of a row of grad_output to sums[tap][channel], `pixels` of which are not in the totals yet."""
    cdef ptrdiff_t i = 0, first, last, run
    cdef const real *grad = (<const real *>call.dest
                             + (place.image * t.rows + place.row) * t.columns * t.channels + place.channel)
    inside(t, place.row, 0, t.columns, &first, &last)
    while i < t.columns:
        run = at_most(last - i, t.chunk_pixels) if first <= i < last else 1
        list_taps(call, t, place, 0, i, sums, taps)
        dot_run(t, taps, grad + i * t.channels, run, place.n, sums)
        i += run
        pixels[0] += run
        if pixels[0] >= t.chunk_pixels:
            flush(t, place.n, sums, totals)
            pixels[0] = 0


cdef void add_gradients(const Call *call, const Channels *t, const Place *place, real *unit,
                        double *totals) noexcept nogil:
    """Add a row of grad_output to the totals of grad_bias."""
    cdef const real *grad = (<const real *>call.dest
                             + (place.image * t.rows + place.row) * t.columns * t.channels + place.channel)
    cdef ptrdiff_t i, c
    for i in range(t.columns):
        for c in range(place.n):
            totals[c] += grad[i * t.channels + c]


cdef void dot_item(const Call *call, const Channels *t, ptrdiff_t part, Place *place, real *sums,
                   Taps *taps) noexcept nogil:
    """grad_weight, and grad_bias, of a part and a block of channels."""
    cdef ptrdiff_t window = t.kernel_h * t.kernel_w, tap, c, row, pixels = 0
    cdef double *totals = <double *>call.totals + part * window * t.channels + place.channel
    cdef double *bias_totals = <double *>call.bias_totals + part * t.channels + place.channel
    for tap in range(window):
        for c in range(place.n):
            totals[tap * t.channels + c] = 0
    for c in range(place.n if call.bias_totals else 0):
        bias_totals[c] = 0
    for row in range(part * t.part_rows, at_most((part + 1) * t.part_rows, t.images * t.rows)):
        place.image = row // t.rows
        place.row = row % t.rows
        dot_row(call, t, place, sums, totals, &pixels, taps)
        if call.bias_totals:
            add_gradients(call, t, place, sums, bias_totals)
    flush(t, place.n, sums, totals)


cdef void run_items(real *unit, Run *run, bint products, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Call *call = &run.call
    cdef const Channels *t = &run.fields
    cdef int slot = fc_take_slot(&run.call.slots)
    cdef char *mine = <char *>run.call.scratch + slot * run.fields.slot_bytes
    cdef real *sums = <real *>(mine + t.sums_offset)
    cdef ptrdiff_t item
    cdef Taps taps
    cdef Place place
    taps.sources = <const void **>mine
    taps.weights = taps.sources + t.kernel_h * t.kernel_w
    if products:
        memset(sums, 0, <size_t>(t.kernel_h * t.kernel_w * t.block) * sizeof(real))
    for item in range(first, last):  # blocks of channels fastest
        place.channel = item % t.blocks * t.block
        place.n = at_most(t.block, t.channels - place.channel)
        if products:
            dot_item(call, t, item // t.blocks, &place, sums, &taps)
        else:
            place.image = item // t.blocks // t.rows
            place.row = item // t.blocks % t.rows
            gather_row(call, t, &place, unit, &taps)
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
    """Pack the part of a task that is the same for all calls: every field of `Channels`, by name."""
    cdef Channels schedule
    memset(&schedule, 0, sizeof(schedule))
    schedule = fields
    return (<char *>&schedule)[:sizeof(schedule)]


def call_task(source, dest, weight, bias, zeros, size_t scratch, bint relu=False, totals=None, bias_totals=None):
    """Pack the part before it: arrays, of which weight, bias and totals may be None, an address, and a flag."""
    cdef Call call
    memset(&call, 0, sizeof(call))
    call.source = address(source)
    call.dest = address(dest)
    call.weight = address(weight)
    call.bias = address(bias)
    call.zeros = address(zeros)
    call.scratch = scratch
    call.relu = relu
    call.totals = address(totals)
    call.bias_totals = address(bias_totals)
    return (<char *>&call)[:sizeof(call)]
