"""grad_weight and grad_bias: for every tap a matrix product of input and grad_output over all pixels.

A part owns a block of input channels by a range of blocks of 2 vectors of output channels. Where parts are few, a work
item is one of `splits` shares of a part's pixels, and keeps its sums [block][channel][tap][2 vectors] in memory that
outlives the call; they are added up at the end, in order. An item goes through blocks of output pixels in order:
copies the input rows that the block needs into a buffer [image][column group][row][pitch][channel] (see
taps.py), and grad_output into [block][pixel][2 vectors], so that the register tile finds its channels side by
side and sums over pixels by a table of distances that is the same for all taps.
"""

from libc.string cimport memset

from fastconv.kernels.cython.arrays cimport address
from fastconv.kernels.cython.simd cimport (
    FC_BYTES, FC_ROWS, add_into, at_most, ceil_div, columns_inside, copy_padded, copy_strided, fc_give_slot,
    fc_kernel, fc_slots, fc_take_slot, fill_row, lanes, real, tile, transpose)

cdef struct ContractionCall:  # what differs from call to call
    size_t input, grad_output, grad_weight, grad_bias
    size_t sums  # [part][split][block][channel][tap][2 vectors], of the parts from first_part on
    size_t bias_sums  # float64, for each split 2 vectors for each block of output channels of each group; 0: not wanted
    size_t scratch  # scratch_bytes for each slot: buffer, rows to transpose, grad_output, table of pixels
    ptrdiff_t first_part
    ptrdiff_t first_block, last_block  # blocks of pixels of each split that this run adds

cdef struct Contraction:
    ContractionCall call
    # Steps in elements along image, channel, row and column; extents.
    ptrdiff_t input_n, input_c, input_h, input_w, input_rows, input_columns
    ptrdiff_t grad_output_n, grad_output_c, grad_output_h, grad_output_w
    ptrdiff_t step_h, step_w  # stride of the convolution
    ptrdiff_t images, rows, columns  # output pixels
    ptrdiff_t blocks, splits, split_blocks  # blocks of them, in all and of each split but the last
    ptrdiff_t image_block, row_block, column_block
    ptrdiff_t group_count, group_in, group_out  # groups, and channels of one
    ptrdiff_t channel_block, range_blocks
    # int64 tables: input row of each buffer row and input column of each column group, both for pixel 0; of each tap
    # the distance in the buffer, in pixels.
    size_t buffer_rows, column_groups, distances
    ptrdiff_t buffer_row_count, column_group_count, pitch, tap_count
    ptrdiff_t picks  # rows are short: all of a column group are copied before they are transposed
    ptrdiff_t scratch_bytes, rows_offset, grad_offset, pixels_offset

cdef struct ContractionRun:
    Contraction fields
    fc_slots slots

cdef struct Part:
    ptrdiff_t group, channel, channels, first_block, blocks, bias_block

cdef struct Pixels:  # one block of output pixels
    ptrdiff_t image, images, row, rows, column, columns


cdef Part locate(real *unit, const Contraction *t, ptrdiff_t part) noexcept nogil:
    """Parts count blocks of input channels fastest: neighbours read the same grad_output."""
    cdef Part p
    cdef ptrdiff_t group_blocks = ceil_div(t.group_out, 2 * lanes(unit))
    cdef ptrdiff_t ranges = ceil_div(group_blocks, t.range_blocks), parts = ceil_div(t.group_in, t.channel_block)
    p.channel = part % parts * t.channel_block
    p.channels = at_most(t.channel_block, t.group_in - p.channel)
    part //= parts
    p.first_block = part % ranges * t.range_blocks
    p.blocks = at_most(t.range_blocks, group_blocks - p.first_block)
    p.group = part // ranges
    p.bias_block = p.group * group_blocks + p.first_block
    return p


cdef Pixels locate_pixels(const Contraction *t, ptrdiff_t block) noexcept nogil:
    cdef Pixels x
    cdef ptrdiff_t columns = ceil_div(t.columns, t.column_block), rows = ceil_div(t.rows, t.row_block)
    x.column = block % columns * t.column_block
    x.columns = at_most(t.column_block, t.columns - x.column)
    x.row = block // columns % rows * t.row_block
    x.rows = at_most(t.row_block, t.rows - x.row)
    x.image = block // columns // rows * t.image_block
    x.images = at_most(t.image_block, t.images - x.image)
    return x


cdef void fill_rows(const Contraction *t, const real *plane, ptrdiff_t channels, ptrdiff_t row, ptrdiff_t column,
                    ptrdiff_t count, real *rows, real *to) noexcept nogil:
    """to[i][c] = plane[c][row][column + i * stride] for i < count, 0 outside the plane."""
    cdef ptrdiff_t step = t.channel_block, first = 0, last = 0, i, v, c, d, few
    if 0 <= row < t.input_rows:
        columns_inside(column, t.step_w, t.input_columns, count, &first, &last)
    for i in range(first):
        copy_padded(to + i * step, plane, channels, 0, 0)
    for i in range(last, count):
        copy_padded(to + i * step, plane, channels, 0, 0)
    if last == first:
        return
    plane += row * t.input_h + (column + first * t.step_w) * t.input_w
    to += first * step
    count = last - first
    if t.input_c == 1:
        for i in range(count):
            copy_padded(to + i * step, plane + i * t.step_w * t.input_w, 0, channels, 0)
        return
    if t.step_w * t.input_w == 1:
        transpose(plane, t.input_c, to, step, channels, count)
        return
    for v in range(ceil_div(channels, lanes(to))):
        c = v * lanes(to)
        few = at_most(lanes(to), channels - c)
        for d in range(few):
            copy_strided(rows + d * count, plane + (c + d) * t.input_c, t.step_w * t.input_w, count)
        transpose(rows, count, to + c, step, few, count)


cdef void pick_rows(const Contraction *t, const real *plane, ptrdiff_t channels, ptrdiff_t row, ptrdiff_t column,
                    real *rows, real *to) noexcept nogil:
    """All rows of one group of columns, from short rows: first one behind the other, so that each transpose has as many
    pixels as it can take."""
    cdef const ptrdiff_t *buffer_rows = <const ptrdiff_t *>t.buffer_rows
    cdef ptrdiff_t area = t.buffer_row_count * t.pitch, first, last, v, c, d, r, h, few
    cdef const real *source
    columns_inside(column, t.step_w, t.input_columns, t.pitch, &first, &last)
    for v in range(ceil_div(channels, lanes(to))):
        c = v * lanes(to)
        few = at_most(lanes(to), channels - c)
        for d in range(few):
            source = plane + (c + d) * t.input_c
            for r in range(t.buffer_row_count):
                h = buffer_rows[r] + row
                if 0 <= h < t.input_rows:
                    fill_row(rows + d * area + r * t.pitch, source + h * t.input_h, 1, column, t.step_w, first, last,
                             t.pitch)
                else:
                    memset(rows + d * area + r * t.pitch, 0, <size_t>t.pitch * sizeof(real))
        transpose(rows, area, to + c, t.channel_block, few, area)


cdef void fill(const Contraction *t, const Part *p, const Pixels *x, real *rows, real *to) noexcept nogil:
    """Copy what the block of pixels needs of the item's channels into the buffer, channels last."""
    cdef const ptrdiff_t *buffer_rows = <const ptrdiff_t *>t.buffer_rows
    cdef const ptrdiff_t *columns = <const ptrdiff_t *>t.column_groups
    cdef const real *plane
    cdef ptrdiff_t n, s, r
    # One tap, no stride, whole rows: they follow each other without a gap.
    cdef bint whole = (t.column_group_count == 1 and t.buffer_row_count == x.rows and t.pitch == t.input_columns
                       and x.columns == t.pitch and columns[0] == 0 and t.input_h == t.pitch * t.input_w and t.step_w == 1
                       and t.step_h == 1 and 0 <= buffer_rows[0] + x.row and buffer_rows[0] + x.row + x.rows <= t.input_rows)
    for n in range(x.images):
        plane = <const real *>t.call.input + (x.image + n) * t.input_n + (p.group * t.group_in + p.channel) * t.input_c
        if whole:
            plane += (buffer_rows[0] + x.row) * t.input_h
            if t.input_c == 1:
                for r in range(x.rows * t.pitch):
                    copy_padded(to + r * t.channel_block, plane + r * t.input_w, 0, p.channels, 0)
            else:
                transpose(plane, t.input_c, to, t.channel_block, p.channels, x.rows * t.pitch)
            to += t.buffer_row_count * t.pitch * t.channel_block
            continue
        for s in range(t.column_group_count):
            if t.picks:
                pick_rows(t, plane, p.channels, x.row * t.step_h, columns[s] + x.column * t.step_w, rows, to)
                to += t.buffer_row_count * t.pitch * t.channel_block
                continue
            for r in range(t.buffer_row_count):
                fill_rows(t, plane, p.channels, buffer_rows[r] + x.row * t.step_h, columns[s] + x.column * t.step_w,
                          t.pitch, rows, to)
                to += t.pitch * t.channel_block


cdef void fill_pixels(const real *source, ptrdiff_t source_c, ptrdiff_t source_w, ptrdiff_t pixels, ptrdiff_t channels,
                      ptrdiff_t width, real *to) noexcept nogil:
    """to[i][k] = source[i * source_w + k * source_c]; zeros up to `width` channels."""
    cdef ptrdiff_t i, k
    if channels < width:
        memset(to, 0, <size_t>(pixels * width) * sizeof(real))
    if source_w == 1:
        transpose(source, source_c, to, width, channels, pixels)
        return
    for i in range(pixels):
        for k in range(channels):
            to[i * width + k] = source[i * source_w + k * source_c]


cdef ptrdiff_t fill_grad(const Contraction *t, const Part *p, const Pixels *x, ptrdiff_t block, ptrdiff_t channels,
                         ptrdiff_t width, real *to) noexcept nogil:
    """Copy grad_output's pixels of one block of channels, channels last; return how many pixels."""
    cdef ptrdiff_t first = p.group * t.group_out + (p.first_block + block) * 2 * lanes(to), n, j
    cdef const real *source
    for n in range(x.images):
        source = (<const real *>t.call.grad_output + (x.image + n) * t.grad_output_n + first * t.grad_output_c
                  + x.row * t.grad_output_h + x.column * t.grad_output_w)
        if t.grad_output_h == x.columns * t.grad_output_w:
            fill_pixels(source, t.grad_output_c, t.grad_output_w, x.rows * x.columns, channels, width, to)
            to += x.rows * x.columns * width
            continue
        for j in range(x.rows):
            fill_pixels(source + j * t.grad_output_h, t.grad_output_c, t.grad_output_w, x.columns, channels, width, to)
            to += x.columns * width
    return x.images * x.rows * x.columns


cdef void fill_table(const Contraction *t, const Pixels *x, ptrdiff_t *table) noexcept nogil:
    """The distance of each pixel in the buffer."""
    cdef ptrdiff_t plane = t.column_group_count * t.buffer_row_count * t.pitch, n, j, i, done = 0
    for n in range(x.images):
        for j in range(x.rows):
            for i in range(x.columns):
                table[done] = (n * plane + j * t.pitch + i) * t.channel_block
                done += 1


cdef void add_bias(const real *grad, ptrdiff_t pixels, ptrdiff_t width, double *sums) noexcept nogil:
    """Sum in float64: equal elements added in float32 would all round the same way, and far off."""
    cdef ptrdiff_t i, k
    for i in range(pixels):
        for k in range(width):
            sums[k] += <double>grad[i * width + k]


cdef void contract_block(const Contraction *t, const Part *p, const Pixels *x, real *sums, char *scratch,
                         int add) noexcept nogil:
    """Add one block of pixels to the sums of an item."""
    cdef real *buffer = <real *>scratch
    cdef real *rows = <real *>(scratch + t.rows_offset)
    cdef real *grad = <real *>(scratch + t.grad_offset)
    cdef ptrdiff_t *table = <ptrdiff_t *>(scratch + t.pixels_offset)
    cdef const ptrdiff_t *distances = <const ptrdiff_t *>t.distances
    cdef ptrdiff_t taps = t.tap_count, full = 2 * lanes(sums)
    cdef ptrdiff_t block, channels, width, pixels, tiles, tap, done, few
    fill_table(t, x, table)
    fill(t, p, x, rows, buffer)
    for block in range(p.blocks):
        channels = at_most(full, t.group_out - (p.first_block + block) * full)
        width = full if channels > lanes(sums) else lanes(sums)
        pixels = fill_grad(t, p, x, block, channels, width, grad)
        if t.call.bias_sums and p.channel == 0:
            add_bias(grad, pixels, width, <double *>t.call.bias_sums + (p.bias_block + block) * full)
        tiles = ceil_div(p.channels, FC_ROWS)
        done = 0
        while tiles > 0:
            few = ceil_div(p.channels - done, tiles)
            for tap in range(taps):
                tile(few, <int>(width // lanes(sums)),
                     buffer + done + distances[tap] * t.channel_block, table, pixels, grad,
                     width, sums + ((block * t.channel_block + done) * taps + tap) * full, taps * full, add)
            done += few
            tiles -= 1


cdef void contract(real *unit, ContractionRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """An item is one split of the pixels of a part."""
    cdef const Contraction *t = &run.fields
    cdef int slot = fc_take_slot(&run.slots)
    cdef ptrdiff_t size = item_sums(unit, t), item, block, split, begin, end
    cdef Part p
    cdef Pixels x
    for item in range(first, last):
        split = item % t.splits
        p = locate(unit, t, item // t.splits + t.call.first_part)
        p.bias_block += split * bias_blocks(unit, t)
        if t.call.bias_sums and p.channel == 0 and t.call.first_block == 0:
            memset(<double *>t.call.bias_sums + p.bias_block * 2 * lanes(unit), 0,
                   <size_t>(p.blocks * 2 * lanes(unit)) * sizeof(double))
        begin = split * t.split_blocks
        end = at_most(begin + t.split_blocks, t.blocks)
        for block in range(begin + t.call.first_block, at_most(begin + t.call.last_block, end)):
            x = locate_pixels(t, block)
            contract_block(t, &p, &x, <real *>t.call.sums + item * size,
                           <char *>t.call.scratch + slot * t.scratch_bytes, block > begin)
    fc_give_slot(&run.slots, slot)


cdef ptrdiff_t item_sums(real *unit, const Contraction *t) noexcept nogil:
    """Elements of an item's sums."""
    return t.range_blocks * t.channel_block * t.tap_count * 2 * lanes(unit)


cdef ptrdiff_t bias_blocks(real *unit, const Contraction *t) noexcept nogil:
    """Blocks of output channels of all groups."""
    return t.group_count * ceil_div(t.group_out, 2 * lanes(unit))


cdef void finish(real *unit, const Contraction *t, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """Add up the splits of parts and write them as grad_weight[k][c][tap], and grad_bias."""
    cdef ptrdiff_t taps = t.tap_count, full = 2 * lanes(unit), size = item_sums(unit, t)
    cdef ptrdiff_t part, block, split, k, i, channels
    cdef real *sums
    cdef double bias
    cdef Part p
    for part in range(first, last):
        p = locate(unit, t, part + t.call.first_part)
        sums = <real *>t.call.sums + part * t.splits * size
        for split in range(1, t.splits):
            add_into(sums, sums + split * size, size)
        for block in range(p.blocks):
            channels = at_most(full, t.group_out - (p.first_block + block) * full)
            k = p.group * t.group_out + (p.first_block + block) * full
            transpose(sums + block * t.channel_block * taps * full, full,
                      <real *>t.call.grad_weight + (k * t.group_in + p.channel) * taps, t.group_in * taps,
                      p.channels * taps, channels)
            if t.call.bias_sums and p.channel == 0:
                for i in range(channels):
                    bias = 0
                    for split in range(t.splits):
                        bias += (<double *>t.call.bias_sums)[
                            (p.bias_block + block + split * bias_blocks(unit, t)) * full + i]
                    (<real *>t.call.grad_bias)[k + i] = <real>bias


cdef void contract_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    contract(<float *>NULL, <ContractionRun *>task, first, last)


cdef void contract_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    contract(<double *>NULL, <ContractionRun *>task, first, last)


cdef void finish_float32(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    finish(<float *>NULL, &(<ContractionRun *>task).fields, first, last)


cdef void finish_float64(void *task, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    finish(<double *>NULL, &(<ContractionRun *>task).fields, first, last)


#: Bytes of a vector.
VECTOR_BYTES = FC_BYTES
#: Addresses of the range kernels; both take the same task.
CONTRACT = {"float32": <size_t><fc_kernel>contract_float32, "float64": <size_t><fc_kernel>contract_float64}
FINISH = {"float32": <size_t><fc_kernel>finish_float32, "float64": <size_t><fc_kernel>finish_float64}


def contraction_task(**fields):
    """Pack what a schedule knows of the task of CONTRACT and FINISH: every field of `Contraction` but `call`."""
    cdef ContractionRun run
    memset(&run, 0, sizeof(run))
    run.fields = fields | {"call": run.fields.call}
    return (<char *>&run)[sizeof(ContractionCall):sizeof(run)]


def contraction_call(input, grad_output, grad_weight, grad_bias, size_t sums, size_t bias_sums, size_t scratch,
                     ptrdiff_t first_part, ptrdiff_t first_block, ptrdiff_t last_block):
    """Pack what comes before it in each call; `grad_bias` is an array or None."""
    cdef ContractionCall call = ContractionCall(
        address(input), address(grad_output), address(grad_weight), address(grad_bias), sums,
        0 if grad_bias is None else bias_sums, scratch, first_part, first_block, last_block)
    return (<char *>&call)[:sizeof(call)]
