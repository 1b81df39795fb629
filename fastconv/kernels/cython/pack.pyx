"""Weights as direct.pyx reads them: [range][block][phase][channel][tap][2 vectors of destination channels].

A last block of no more than one vector of channels has one, and a group of few destination channels only those.
"""

from libc.string cimport memcpy, memset

from fastconv.kernels.cython.arrays cimport address
from fastconv.kernels.cython.simd cimport (
    at_most, ceil_div, fc_kernel, lanes, not_finite, real, transpose)

cdef struct PackingCall:  # what differs from call to call
    size_t weight, packed
    size_t not_finite  # an int64 for each item: whether it saw an infinity or NaN; 0: nobody asks
    ptrdiff_t first_range

cdef struct Packing:
    PackingCall call
    ptrdiff_t weight_group, weight_dest, weight_source  # elements between groups, destination and source channels
    ptrdiff_t group_source, group_dest, range_blocks, weight_width, narrow
    size_t phases, tap_places  # as in Correlation; for each tap its place r * S + s
    ptrdiff_t phase_count, tap_count


cdef void pack_block(const Packing *t, const real *weight, ptrdiff_t channels, real *to) noexcept nogil:
    """Write [phase][channel][tap][1 or 2 vectors] of `channels` destination channels, zeros beyond them."""
    cdef const ptrdiff_t *places = <const ptrdiff_t *>t.tap_places
    cdef ptrdiff_t width = channels if t.narrow else lanes(to) * (2 if channels > lanes(to) else 1)
    cdef ptrdiff_t p, c, tap, first, count
    cdef const ptrdiff_t *phase
    cdef const real *source
    if channels < width:
        memset(to, 0, <size_t>(t.tap_count * t.group_source * width) * sizeof(real))
    if t.weight_source == t.tap_count and t.phase_count == 1:  # (channel, tap) are neighbours in the weight
        transpose(weight, t.weight_dest, to, width, channels, t.group_source * t.tap_count)
        return
    if t.weight_dest == 1 and t.tap_count == 1:  # so are destination channels
        for c in range(t.group_source):
            memcpy(to + c * width, weight + c * t.weight_source, <size_t>channels * sizeof(real))
        return
    for p in range(t.phase_count):
        phase = <const ptrdiff_t *>t.phases + 4 * p
        for c in range(t.group_source):
            source = weight + c * t.weight_source
            tap = 0
            while tap < phase[3]:  # a run of taps that are neighbours in the weight
                first = places[phase[2] + tap]
                count = 1
                while tap + count < phase[3] and places[phase[2] + tap + count] == first + count:
                    count += 1
                transpose(source + first, t.weight_dest, to + tap * width, width, channels, count)
                tap += count
            to += phase[3] * width


cdef void pack(real *unit, const Packing *t, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is one range of blocks of destination channels."""
    cdef ptrdiff_t width = 2 * lanes(unit), item, group, block, i, size = t.tap_count * t.group_source * t.weight_width
    cdef ptrdiff_t blocks = ceil_div(t.group_dest, width), ranges = ceil_div(blocks, t.range_blocks)
    cdef real *to
    cdef bint odd
    for item in range(first, last):
        group = (item + t.call.first_range) // ranges
        block = (item + t.call.first_range) % ranges * t.range_blocks
        odd = False
        for i in range(at_most(t.range_blocks, blocks - block)):
            to = <real *>t.call.packed + (item * t.range_blocks + i) * size
            pack_block(
                t, <const real *>t.call.weight + group * t.weight_group + (block + i) * width * t.weight_dest,
                at_most(width, t.group_dest - (block + i) * width), to)
            if t.call.not_finite:
                odd |= not_finite(to, size if t.narrow or t.group_dest - (block + i) * width > lanes(to) else size // 2)
        if t.call.not_finite:
            (<ptrdiff_t *>t.call.not_finite)[item] = odd


cdef void pack_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    pack(<float *>NULL, <const Packing *>task, first, last)


cdef void pack_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    pack(<double *>NULL, <const Packing *>task, first, last)


#: Addresses of the range kernels.
PACK = {"float32": <size_t><fc_kernel>pack_float32, "float64": <size_t><fc_kernel>pack_float64}


def packing_task(**fields):
    """Pack what a schedule knows of the task of PACK: every field of `Packing` but `call`, by name."""
    cdef Packing task
    memset(&task, 0, sizeof(task))
    task = fields | {"call": task.call}
    return (<char *>&task)[sizeof(PackingCall):sizeof(task)]


def packing_call(weight, size_t packed, not_finite, ptrdiff_t first_range):
    """Pack what comes before it in each call; `not_finite` is an array or None."""
    cdef PackingCall call = PackingCall(address(weight), packed, address(not_finite), first_range)
    return (<char *>&call)[:sizeof(call)]
