"""Forward and grad_input: every pixel of a destination gathers from a source through the taps of the kernel.

Forward gathers outputs from the input, grad_input gathers inputs from grad_output; conv/cython_tiled.py describes
both by the same fields. The destination's pixels are (j * dest_step + residue): a *phase* is one residue of rows
and columns, with the taps that reach it (forward has one phase). Along an axis, tap t of pixel j reads the source
at (j + shift[t]) * source_step + its own residue.

A work item is a block of pixels by a range of blocks of 2 vectors of destination channels. For a block of source
channels it copies the source rows that it needs, zeros where the source ends, into a buffer in which every tap is
a constant distance: [image][channel][column group][row][pitch], see taps.py. The register tile then sums over
(channel, tap) by a table of these distances. Sums wait in [block][image][pixel][2 vectors] for the next channels;
at the end they get the epilogue and are transposed into the destination.
"""

from libc.string cimport memcpy, memset

from fastconv.kernels.cython.arrays cimport address
from fastconv.kernels.cython.correlation cimport (
    Block, Correlation, CorrelationCall, CorrelationRun, fill, gathered, locate)
from fastconv.kernels.cython.simd cimport (
    FC_BYTES, FC_LINE_VECTORS, FC_ROWS, at_least, at_most, ceil_div, epilogue, fc_give_slot, fc_kernel, fc_take_slot,
    finish_line, lanes, line, not_finite, real, tile, transpose)
from fastconv.kernels.cython.weights cimport Ahead, chunk_ahead, fetch, pack_chunk, weight_row

cdef void row_of_tiles(const Correlation *t, int vectors, const real *source, const ptrdiff_t *offsets,
                       ptrdiff_t count, const real *weights, ptrdiff_t weight_step, real *sums, ptrdiff_t sum_step,
                       ptrdiff_t pixels, int add) noexcept nogil:
    """Split a row of pixels evenly into register tiles: 27 = 14 + 13."""
    cdef ptrdiff_t tiles = ceil_div(pixels, FC_ROWS), done = 0, rows
    while tiles > 0:
        rows = ceil_div(pixels - done, tiles)
        tile(rows, vectors, source + done, offsets, count, weights, weight_step, sums + done * sum_step, sum_step, add)
        done += rows
        tiles -= 1


cdef void correlate_phase(const Correlation *t, const Block *b, const ptrdiff_t *phase, int vectors, const real *buffer,
                          ptrdiff_t channels, const real *weights, real *sums, int add, Ahead *ahead) noexcept nogil:
    """Add one phase's taps over `channels` to the sums of one block of destination channels."""
    cdef ptrdiff_t width = 2 * lanes(sums), lane = vectors * lanes(sums), n, j
    cdef const ptrdiff_t *offsets = <const ptrdiff_t *>t.offsets + phase[2] * t.channel_block
    # Pixels of the phase that are in the destination.
    cdef ptrdiff_t rows = at_most(b.rows, ceil_div(t.dest_rows - phase[0], t.dest_step_h) - b.row)
    cdef ptrdiff_t columns = at_most(b.columns, ceil_div(t.dest_columns - phase[1], t.dest_step_w) - b.column)
    if columns == t.pitch and columns == b.sum_columns and t.dest_step_h == 1 and t.dest_step_w == 1:
        # Rows follow each other without a gap: as one, 49 = 3 * 13 + 10.
        columns *= rows
        rows = 1
    for n in range(b.images):
        for j in range(rows):
            fetch(ahead)
            row_of_tiles(
                t, vectors, buffer + n * t.buffer_n + j * t.pitch, offsets, channels * phase[3], weights,
                lane, sums + ((n * b.sum_rows + j * t.dest_step_h + phase[0]) * b.sum_columns + phase[1]) * width,
                t.dest_step_w * width, columns, add)


cdef void correlate_exactly(const Correlation *t, const Block *b, const ptrdiff_t *phase, int vectors,
                            const real *buffer, ptrdiff_t channels, const real *weights, real *sums) noexcept nogil:
    """The same tap by tap, each for the pixels alone whose source exists. Only where source_step is 1."""
    cdef ptrdiff_t width = 2 * lanes(sums), lane = vectors * lanes(sums), n, j, k
    cdef ptrdiff_t rows = at_most(b.rows, ceil_div(t.dest_rows - phase[0], t.dest_step_h) - b.row)
    cdef ptrdiff_t columns = at_most(b.columns, ceil_div(t.dest_columns - phase[1], t.dest_step_w) - b.column)
    cdef const ptrdiff_t *tap
    cdef ptrdiff_t first, last
    for k in range(phase[3]):
        tap = <const ptrdiff_t *>t.taps + 3 * (phase[2] + k)
        first = at_least(0, -tap[1] - b.column)
        last = at_most(columns, t.source_columns - tap[1] - b.column)
        for n in range(b.images):
            for j in range(at_least(0, -tap[0] - b.row), at_most(rows, t.source_rows - tap[0] - b.row)):
                row_of_tiles(
                    t, vectors, buffer + n * t.buffer_n + j * t.pitch + tap[2] + first,
                    <const ptrdiff_t *>t.channel_offsets, channels, weights + k * lane, phase[3] * lane,
                    sums + ((n * b.sum_rows + j * t.dest_step_h + phase[0]) * b.sum_columns
                            + first * t.dest_step_w + phase[1]) * width,
                    t.dest_step_w * width, at_least(last - first, 0), 1)


cdef void store_pixels(const Correlation *t, const real *sums, ptrdiff_t pixels, ptrdiff_t channels,
                       real *to) noexcept nogil:
    """Write finished sums of pixels that lie dest_w apart."""
    cdef ptrdiff_t width = 2 * lanes(to), i, k
    if t.dest_w == 1:
        transpose(sums, width, to, t.dest_c, pixels, channels)
        return
    for i in range(pixels):
        for k in range(channels):
            to[i * t.dest_w + k * t.dest_c] = sums[i * width + k]


cdef void store(const Correlation *t, const Block *b, ptrdiff_t block, real *sums) noexcept nogil:
    """Finish the sums of one block of destination channels and write them."""
    cdef ptrdiff_t width = 2 * lanes(sums), n, h, first = b.group * t.group_dest + block * width
    cdef ptrdiff_t channels = at_most(width, t.group_dest - block * width)
    cdef ptrdiff_t row = b.row * t.dest_step_h, column = b.column * t.dest_step_w
    cdef ptrdiff_t rows = at_most(b.rows * t.dest_step_h, t.dest_rows - row)
    cdef ptrdiff_t columns = at_most(b.columns * t.dest_step_w, t.dest_columns - column)
    cdef real[32] bias  # 2 vectors of the narrowest type
    cdef real *to
    if t.call.bias:
        memset(bias, 0, sizeof(bias))
        memcpy(bias, <const real *>t.call.bias + first, <size_t>channels * sizeof(real))
    for n in range(b.images):
        if t.call.bias or t.call.relu:
            epilogue(sums, width, rows * b.sum_columns, width, bias if t.call.bias else NULL, <int>t.call.relu)
        to = <real *>t.call.dest + (b.image + n) * t.dest_n + first * t.dest_c + row * t.dest_h + column * t.dest_w
        if columns == b.sum_columns and t.dest_h == columns * t.dest_w:
            store_pixels(t, sums, rows * columns, channels, to)
        else:
            for h in range(rows):
                store_pixels(t, sums + h * b.sum_columns * width, columns, channels, to + h * t.dest_h)
        sums += b.sum_rows * b.sum_columns * width


cdef void correlate_chunk(const Correlation *t, const Block *b, ptrdiff_t block, const real *buffer, ptrdiff_t channel,
                          ptrdiff_t channels, real *weights, real *sums, Ahead *ahead) noexcept nogil:
    """Add `channels` source channels to the sums of one block of destination channels."""
    cdef ptrdiff_t row = weight_row(sums, t, b.first_block + block), k
    cdef ptrdiff_t size = b.sum_rows * b.sum_columns * 2 * lanes(sums) * t.image_block
    cdef int vectors = <int>(row // lanes(sums)), add = 1 if channel > 0 or t.call.exact or not t.covered else 0
    cdef bint exact = t.call.exact
    cdef const ptrdiff_t *phase
    if t.call.packed:
        weights = (<real *>t.call.packed + (b.weights + block) * t.tap_count * t.group_source * t.weight_width
                   + channel * t.tap_count * row)
    else:
        pack_chunk(t, b.group, b.first_block + block, channel, channels, weights)
        exact = t.guarded and not_finite(weights, t.tap_count * channels * row)
        if exact and not add:
            memset(sums, 0, <size_t>size * sizeof(real))
    for k in range(t.phase_count):
        phase = <const ptrdiff_t *>t.phases + 4 * k
        if exact:
            correlate_exactly(t, b, phase, vectors, buffer, channels, weights + phase[2] * channels * row, sums)
        else:
            correlate_phase(t, b, phase, vectors, buffer, channels, weights + phase[2] * channels * row, sums, add, ahead)


cdef void correlate_block(const Correlation *t, const Block *b, real *buffer, real *sums, real *weights) noexcept nogil:
    """One work item."""
    cdef ptrdiff_t size = b.sum_rows * b.sum_columns * 2 * lanes(sums) * t.image_block
    cdef ptrdiff_t channel = 0, channels, block, next_channel, next_block, pieces
    pieces = at_least(t.phase_count * b.images * b.rows, 1)  # 0 phases where no tap reaches the source
    cdef const real *source
    cdef Ahead ahead
    if t.call.exact or not t.covered or b.columns < t.column_block:  # the epilogue passes over columns left out
        memset(sums, 0, <size_t>(size * b.blocks) * sizeof(real))
    while channel < t.group_source:
        channels = at_most(t.channel_block, t.group_source - channel)
        source = gathered(t, b, channel, channels, buffer)
        for block in range(b.blocks):
            next_block = block + 1 if block + 1 < b.blocks else 0
            next_channel = channel if next_block else channel + channels
            ahead = chunk_ahead(sums, t, b.group, b.first_block + next_block, next_channel,
                                at_most(t.channel_block, t.group_source - next_channel), pieces)
            if t.call.packed or next_channel == t.group_source:
                ahead.rows = 0
            correlate_chunk(t, b, block, source, channel, channels, weights, sums + block * size, &ahead)
        channel += channels
    for block in range(b.blocks):
        store(t, b, b.first_block + block, sums + block * size)


# -- Few destination channels: vectors run over pixels -----------------------------------------------
#
# Rows of the buffer are one behind the other, so a block is one line of pixels for each tap; what falls between two
# rows is computed and never stored. Sums are [phase][image][channel][row][pitch].

cdef void narrow_phase(const Correlation *t, const Block *b, const ptrdiff_t *phase, const real *buffer,
                       ptrdiff_t channels, const real *weights, real *sums, ptrdiff_t room, int add) noexcept nogil:
    """Add one phase's taps over `channels` to the sums of an image: every channel has room for `room` pixels."""
    cdef ptrdiff_t vectors = ceil_div((b.rows - 1) * t.pitch + b.columns, lanes(sums)), tiles, done, few, rows, k = 0
    cdef const ptrdiff_t *offsets = <const ptrdiff_t *>t.offsets + phase[2] * t.channel_block
    while k < t.group_dest:
        rows = ceil_div(t.group_dest - k, ceil_div(t.group_dest - k, 4))
        tiles = ceil_div(vectors, FC_LINE_VECTORS(rows))
        done = 0
        while tiles > 0:
            few = ceil_div(vectors - done, tiles)
            line(rows, few, buffer + done * lanes(sums), offsets, channels * phase[3], weights + k, t.group_dest,
                 sums + k * room + done * lanes(sums), room, add)
            done += few
            tiles -= 1
        k += rows


cdef void narrow_exactly(const Correlation *t, const Block *b, const ptrdiff_t *phase, const real *buffer,
                         ptrdiff_t channels, const real *weights, real *sums, ptrdiff_t room) noexcept nogil:
    """The same for the pixels alone whose source exists, tap by tap."""
    cdef ptrdiff_t k, c, a, j, i, place
    cdef const ptrdiff_t *tap
    cdef real weight
    for k in range(t.group_dest):
        for c in range(channels):
            for a in range(phase[3]):
                tap = <const ptrdiff_t *>t.taps + 3 * (phase[2] + a)
                weight = weights[(c * phase[3] + a) * t.group_dest + k]
                place = (<const ptrdiff_t *>t.channel_offsets)[c] + tap[2]
                for j in range(at_least(0, -tap[0] - b.row), at_most(b.rows, t.source_rows - tap[0] - b.row)):
                    for i in range(at_least(0, -tap[1] - b.column),
                                   at_most(b.columns, t.source_columns - tap[1] - b.column)):
                        sums[k * room + j * t.pitch + i] += buffer[place + j * t.pitch + i] * weight


cdef void store_narrow(const Correlation *t, const Block *b, const ptrdiff_t *phase, const real *sums, real bias,
                       real *to) noexcept nogil:
    """Finish and write one channel's pixels of a phase; `to` is the block's first pixel of the destination."""
    cdef ptrdiff_t rows = at_most(b.rows, ceil_div(t.dest_rows - phase[0], t.dest_step_h) - b.row)
    cdef ptrdiff_t columns = at_most(b.columns, ceil_div(t.dest_columns - phase[1], t.dest_step_w) - b.column)
    cdef ptrdiff_t step = t.dest_step_w * t.dest_w, j, i
    cdef real *row
    cdef real x
    for j in range(rows):
        row = to + (j * t.dest_step_h + phase[0]) * t.dest_h + phase[1] * t.dest_w
        if step == 1:
            finish_line(sums + j * t.pitch, row, columns, bias, <int>t.call.relu)
        else:
            for i in range(columns):
                x = sums[j * t.pitch + i] + bias
                row[i * step] = 0 if t.call.relu and x < 0 else x


cdef void fill_dest(const Correlation *t, const Block *b, real value, real *to) noexcept nogil:
    """Give every pixel of a block one value."""
    cdef ptrdiff_t rows = at_most(b.rows * t.dest_step_h, t.dest_rows - b.row * t.dest_step_h), h, w
    cdef ptrdiff_t columns = at_most(b.columns * t.dest_step_w, t.dest_columns - b.column * t.dest_step_w)
    for h in range(rows):
        for w in range(columns):
            to[h * t.dest_h + w * t.dest_w] = value


cdef void finish_narrow(const Correlation *t, const Block *b, const real *sums, ptrdiff_t room) noexcept nogil:
    """Write the block of all channels of the group."""
    cdef ptrdiff_t n, k, p, channel
    cdef real bias
    cdef real *to
    for n in range(b.images):
        for k in range(t.group_dest):
            channel = b.group * t.group_dest + k
            bias = (<const real *>t.call.bias)[channel] if t.call.bias else 0
            to = (<real *>t.call.dest + (b.image + n) * t.dest_n + channel * t.dest_c
                  + b.row * t.dest_step_h * t.dest_h + b.column * t.dest_step_w * t.dest_w)
            if not t.covered:
                fill_dest(t, b, <real>0 if t.call.relu and bias < 0 else bias, to)
            for p in range(t.phase_count):
                store_narrow(t, b, <const ptrdiff_t *>t.phases + 4 * p,
                             sums + ((p * t.image_block + n) * t.group_dest + k) * room, bias, to)


cdef void correlate_narrow(const Correlation *t, const Block *b, real *buffer, real *sums,
                           real *weights) noexcept nogil:
    """One work item."""
    cdef ptrdiff_t channels, channel = 0, n, p
    cdef ptrdiff_t room = ceil_div(t.row_block * t.pitch, lanes(sums)) * lanes(sums)
    cdef ptrdiff_t size = t.phase_count * t.image_block * t.group_dest * room
    cdef bint exact = t.call.exact
    cdef const ptrdiff_t *phase
    cdef real *to
    if exact:
        memset(sums, 0, <size_t>size * sizeof(real))
    while channel < t.group_source:
        channels = at_most(t.channel_block, t.group_source - channel)
        fill(t, b, channel, channels, buffer)
        if t.call.packed:
            weights = <real *>t.call.packed + (b.weights * t.group_source + channel) * t.tap_count * t.group_dest
        else:
            pack_chunk(t, b.group, 0, channel, channels, weights)
            exact = t.guarded and not_finite(weights, t.tap_count * channels * t.group_dest)
            if exact and channel == 0:
                memset(sums, 0, <size_t>size * sizeof(real))
        for p in range(t.phase_count):
            phase = <const ptrdiff_t *>t.phases + 4 * p
            for n in range(b.images):
                to = sums + (p * t.image_block + n) * t.group_dest * room
                if exact:
                    narrow_exactly(t, b, phase, buffer + n * t.buffer_n, channels,
                                   weights + phase[2] * channels * t.group_dest, to, room)
                else:
                    narrow_phase(t, b, phase, buffer + n * t.buffer_n, channels,
                                 weights + phase[2] * channels * t.group_dest, to, room, 1 if channel > 0 else 0)
        channel += channels
    finish_narrow(t, b, sums, room)


cdef void correlate(real *unit, CorrelationRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Correlation *t = &run.fields
    cdef int slot = fc_take_slot(&run.slots)
    cdef char *mine = <char *>t.call.scratch + slot * t.scratch_bytes
    cdef ptrdiff_t item
    cdef Block b
    for item in range(first, last):
        b = locate(unit, t, item)
        if t.narrow:
            correlate_narrow(t, &b, <real *>mine, <real *>(mine + t.sums_offset), <real *>(mine + t.weights_offset))
        else:
            correlate_block(t, &b, <real *>mine, <real *>(mine + t.sums_offset), <real *>(mine + t.weights_offset))
    fc_give_slot(&run.slots, slot)


cdef void correlate_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    correlate(<float *>NULL, <CorrelationRun *>task, first, last)


cdef void correlate_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    correlate(<double *>NULL, <CorrelationRun *>task, first, last)


# -- For Python -------------------------------------------------------------------------------------

#: Bytes of a vector.
VECTOR_BYTES = FC_BYTES
#: Rows of the register tile.
TILE_ROWS = FC_ROWS
#: Addresses of the range kernels.
CORRELATE = {"float32": <size_t><fc_kernel>correlate_float32, "float64": <size_t><fc_kernel>correlate_float64}


def correlation_task(**fields):
    """Pack what a schedule knows of the task of CORRELATE: every field of `Correlation` but `call`, by name."""
    cdef CorrelationRun run
    memset(&run, 0, sizeof(run))
    run.fields = fields | {"call": run.fields.call}
    return (<char *>&run)[sizeof(CorrelationCall):sizeof(run)]


def correlation_call(source, weight, dest, size_t packed, not_finite, bias, size_t scratch, ptrdiff_t first_range=0,
                     bint relu=False, bint exact=False):
    """Pack what comes before it in each call: arrays (None for no flags, no bias), addresses, and flags."""
    cdef CorrelationCall call = CorrelationCall(
        address(source), address(dest), address(weight), packed, address(not_finite), address(bias), scratch,
        first_range, relu, exact)
    return (<char *>&call)[:sizeof(call)]
