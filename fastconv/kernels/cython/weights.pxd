"""Weights as direct.pyx reads them: [phase][channel][tap][2 vectors of destination channels] of a chunk of channels.

A last block of no more than one vector of destination channels has one, and a group of few only those.
"""

from libc.string cimport memcpy, memset

from fastconv.kernels.cython.correlation cimport Correlation
from fastconv.kernels.cython.simd cimport at_most, copy_padded, lanes, prefetch_line, real, transpose


cdef inline ptrdiff_t weight_row(real *unit, const Correlation *t, ptrdiff_t block) noexcept nogil:
    """Elements of a packed row of this block of destination channels."""
    if t.narrow:
        return t.group_dest
    return lanes(unit) * (2 if t.group_dest - block * 2 * lanes(unit) > lanes(unit) else 1)


cdef inline const real *chunk_of_weights(real *unit, const Correlation *t, ptrdiff_t group, ptrdiff_t block,
                                         ptrdiff_t channel) noexcept nogil:
    """Where the weight's part for a block of destination channels and a first source channel begins."""
    return (<const real *>t.call.weight + group * t.weight_group + block * 2 * lanes(unit) * t.weight_dest
            + channel * t.weight_source)


cdef enum:
    MOST_TAPS = 64  # of a kernel whose taps are transposed together for all phases


cdef inline void scatter_taps(const Correlation *t, const real *weight, ptrdiff_t channels, ptrdiff_t dests,
                              ptrdiff_t width, real *to) noexcept nogil:
    """Pack for several phases: all taps of a channel at once, then each to its phase."""
    cdef const ptrdiff_t *places = <const ptrdiff_t *>t.tap_places
    cdef real[MOST_TAPS * 32] taps  # 2 vectors of float32 at most
    cdef ptrdiff_t c, p, tap
    cdef const ptrdiff_t *phase
    if dests < width:
        memset(taps, 0, sizeof(taps))
    for c in range(channels):
        transpose(weight + c * t.weight_source, t.weight_dest, taps, width, dests, t.weight_dest)
        for p in range(t.phase_count):
            phase = <const ptrdiff_t *>t.phases + 4 * p
            for tap in range(phase[3]):
                copy_padded(to + (phase[2] * channels + c * phase[3] + tap) * width,
                            taps + places[phase[2] + tap] * width, 0, width, 0)


cdef inline void pack_chunk(const Correlation *t, ptrdiff_t group, ptrdiff_t block, ptrdiff_t channel,
                            ptrdiff_t channels, real *to) noexcept nogil:
    """Write the weights of a block of destination channels and `channels` source channels, zeros beyond them."""
    cdef const ptrdiff_t *places = <const ptrdiff_t *>t.tap_places
    cdef ptrdiff_t width = weight_row(to, t, block), dests = at_most(width, t.group_dest - block * 2 * lanes(to))
    cdef ptrdiff_t p, c, tap, first, count
    cdef const real *weight = chunk_of_weights(to, t, group, block, channel)
    cdef const real *source
    cdef const ptrdiff_t *phase
    if dests < width:
        memset(to, 0, <size_t>(t.tap_count * channels * width) * sizeof(real))
    if t.weight_source == t.tap_count and t.phase_count == 1:  # (channel, tap) are neighbours in the weight
        transpose(weight, t.weight_dest, to, width, dests, channels * t.tap_count)
        return
    if t.weight_dest == 1 and t.tap_count == 1:  # so are destination channels
        for c in range(channels):
            memcpy(to + c * width, weight + c * t.weight_source, <size_t>dests * sizeof(real))
        return
    if t.phase_count > 1 and t.weight_source > t.weight_dest <= MOST_TAPS:
        scatter_taps(t, weight, channels, dests, width, to)
        return
    for p in range(t.phase_count):
        phase = <const ptrdiff_t *>t.phases + 4 * p
        for c in range(channels):
            source = weight + c * t.weight_source
            tap = 0
            while tap < phase[3]:  # a run of taps that are neighbours in the weight
                first = places[phase[2] + tap]
                count = 1
                while tap + count < phase[3] and places[phase[2] + tap + count] == first + count:
                    count += 1
                transpose(source + first, t.weight_dest, to + tap * width, width, dests, count)
                tap += count
            to += phase[3] * width


cdef struct Ahead:  # memory that will be read soon, fetched piece by piece
    const char *row
    ptrdiff_t row_step, lines, line, rows, piece


cdef inline Ahead chunk_ahead(real *unit, const Correlation *t, ptrdiff_t group, ptrdiff_t block, ptrdiff_t channel,
                              ptrdiff_t channels, ptrdiff_t pieces) noexcept nogil:
    """The same part of the weight, to be fetched in so many pieces. Its longer runs are rows."""
    cdef Ahead a
    cdef ptrdiff_t dests = at_most(2 * lanes(unit), t.group_dest - block * 2 * lanes(unit)), run
    a.row = <const char *>chunk_of_weights(unit, t, group, block, channel)
    a.rows = dests
    a.row_step = t.weight_dest
    run = channels * t.weight_source
    if t.weight_dest < t.weight_source:
        a.rows = channels
        a.row_step = t.weight_source
        run = dests * t.weight_dest
    a.row_step *= <ptrdiff_t>sizeof(real)
    a.lines = run * <ptrdiff_t>sizeof(real) // 64 + 1
    a.line = 0
    a.piece = a.rows * a.lines // pieces + 1
    return a


cdef inline void fetch(Ahead *a) noexcept nogil:
    """Ask for the next piece; nothing waits for it."""
    cdef ptrdiff_t i
    for i in range(a.piece):
        if a.rows == 0:
            return
        prefetch_line(a.row + 64 * a.line)
        a.line += 1
        if a.line == a.lines:
            a.line = 0
            a.row += a.row_step
            a.rows -= 1
