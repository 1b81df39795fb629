"""What the kernels that gather through taps share: their task, its work items, and the copy of the source."""

from libc.string cimport memset

from fastconv.kernels.cython.simd cimport (
    at_least, at_most, ceil_div, columns_inside, copy_padded, fc_slots, fill_row, lanes, real)

cdef struct CorrelationCall:  # what differs from call to call
    size_t source, dest, weight
    # Weights [range][block][chunk of channels][phase][channel][tap][2 vectors], of the ranges from first_range on; 0:
    # each item packs a chunk when it needs it.
    size_t packed
    size_t not_finite  # for packing: an int64 for each range, whether it holds an infinity or NaN; 0: nobody asks
    size_t bias  # 0: none
    size_t scratch  # scratch_bytes for each slot: the buffer, then the sums, then a chunk of weights
    ptrdiff_t first_range
    ptrdiff_t relu
    ptrdiff_t exact  # take no product with a zero outside the source: it could be infinity times zero

cdef struct Correlation:
    CorrelationCall call
    # Steps in elements along image, channel, row and column; extents.
    ptrdiff_t source_n, source_c, source_h, source_w, source_rows, source_columns
    ptrdiff_t dest_n, dest_c, dest_h, dest_w, dest_rows, dest_columns
    ptrdiff_t images, group_source, group_dest
    # Pixels j of both axes, before dest_step; blocks of them; blocks of source and destination channels.
    ptrdiff_t rows, columns, image_block, row_block, column_block, channel_block, range_blocks
    ptrdiff_t source_step_h, source_step_w, dest_step_h, dest_step_w
    # int64 tables: source row of each buffer row and source column of each column group, both for j = 0;
    # of each phase its two residues, first tap and number of taps; of each tap the shifts, and the distance
    # within a channel's plane of the buffer; of each (phase, channel, tap) the distance in the buffer.
    # Of each tap also its place in the weight.
    size_t buffer_rows, column_groups, phases, taps, tap_places, offsets, channel_offsets
    ptrdiff_t buffer_row_count, column_group_count, pitch, phase_count, tap_count
    ptrdiff_t in_place  # no buffer: every tap is a constant distance in the source itself
    ptrdiff_t buffer_n  # elements from image to image of the buffer
    ptrdiff_t weight_group, weight_dest, weight_source  # elements between groups, destination and source channels
    ptrdiff_t weight_width  # elements of a row of packed weights: 2 vectors; narrow: group_dest
    ptrdiff_t narrow  # few destination channels: vectors run over pixels
    ptrdiff_t covered  # every pixel of the destination is reached by some tap
    ptrdiff_t guarded  # grad_input with taps beyond the source: weights that are not finite need `exact`
    ptrdiff_t scratch_bytes, sums_offset, weights_offset

cdef struct CorrelationRun:
    Correlation fields
    fc_slots slots

cdef struct Block:  # one work item
    ptrdiff_t image, images, row, rows, column, columns  # pixels j; the sums' extents are the task's
    ptrdiff_t group, first_block, blocks, weights  # weights: number of the first block in `packed`
    ptrdiff_t sum_rows, sum_columns  # pixels of the destination that an image's sums have room for


cdef inline Block locate(real *unit, const Correlation *t, ptrdiff_t item) noexcept nogil:
    """Items count columns fastest, then rows, images, ranges of channels: neighbours share weights."""
    cdef Block b
    cdef ptrdiff_t group_blocks = ceil_div(t.group_dest, 2 * lanes(unit))
    cdef ptrdiff_t group_ranges = ceil_div(group_blocks, t.range_blocks)
    cdef ptrdiff_t blocks = ceil_div(t.columns, t.column_block)
    b.column = item % blocks * t.column_block
    b.columns = at_most(t.column_block, t.columns - b.column)
    item //= blocks
    blocks = ceil_div(t.rows, t.row_block)
    b.row = item % blocks * t.row_block
    b.rows = at_most(t.row_block, t.rows - b.row)
    item //= blocks
    blocks = ceil_div(t.images, t.image_block)
    b.image = item % blocks * t.image_block
    b.images = at_most(t.image_block, t.images - b.image)
    item //= blocks
    b.weights = item * t.range_blocks
    item += t.call.first_range
    b.group = item // group_ranges
    b.first_block = item % group_ranges * t.range_blocks
    b.blocks = at_most(t.range_blocks, group_blocks - b.first_block)
    b.sum_rows = at_most(t.row_block * t.dest_step_h, t.dest_rows)
    b.sum_columns = at_most(t.column_block * t.dest_step_w, t.dest_columns)
    return b


cdef inline void fill(const Correlation *t, const Block *b, ptrdiff_t channel, ptrdiff_t channels, real *to) noexcept nogil:
    """Copy what the block needs of some channels of the group into the buffer."""
    cdef const ptrdiff_t *rows = <const ptrdiff_t *>t.buffer_rows
    cdef const ptrdiff_t *columns = <const ptrdiff_t *>t.column_groups
    cdef const real *plane
    cdef ptrdiff_t n, c, s, r, h, column, first = 0, last = 0, count = t.buffer_row_count, top = rows[0] + b.row * t.source_step_h if count else 0
    # Whole rows, one behind the other as in the source: one copy for a channel.
    cdef ptrdiff_t above = at_most(at_least(-top, 0), count)
    cdef ptrdiff_t below = at_least(at_most(t.source_rows - top, count), above)
    cdef bint whole = (
        count > 0 and t.column_group_count == 1 and t.pitch == t.source_columns and columns[0] + b.column == 0 and t.source_w == 1
        and t.source_h == t.source_columns and t.source_step_w == 1 and t.source_step_h == 1
        and rows[count - 1] - rows[0] == count - 1)
    for n in range(b.images):
        for c in range(channels):
            plane = (<const real *>t.call.source + (b.image + n) * t.source_n
                     + (b.group * t.group_source + channel + c) * t.source_c)
            if whole:
                copy_padded(to, plane + (top + above if below > above else 0) * t.source_h, above * t.pitch,
                            (below - above) * t.pitch, (count - below) * t.pitch)
                to += count * t.pitch
                continue
            for s in range(t.column_group_count):
                column = columns[s] + b.column * t.source_step_w
                columns_inside(column, t.source_step_w, t.source_columns, t.pitch, &first, &last)
                for r in range(t.buffer_row_count):
                    h = rows[r] + b.row * t.source_step_h
                    if 0 <= h < t.source_rows:
                        fill_row(to, plane + h * t.source_h, t.source_w, column, t.source_step_w, first, last, t.pitch)
                    else:
                        memset(to, 0, <size_t>t.pitch * sizeof(real))
                    to += t.pitch
        to += (t.channel_block - channels) * t.column_group_count * t.buffer_row_count * t.pitch


cdef inline const real *gathered(const Correlation *t, const Block *b, ptrdiff_t channel, ptrdiff_t channels,
                          real *buffer) noexcept nogil:
    """Some source channels with all that the block's taps reach: a copy, or the source itself."""
    if t.in_place:
        return (<const real *>t.call.source + b.image * t.source_n + (b.group * t.group_source + channel) * t.source_c
                + b.row * t.source_h + b.column)
    fill(t, b, channel, channels, buffer)
    return buffer
