"""grad_weight and grad_bias: for every tap a matrix product of input and grad_output over all pixels.

A work item owns a block of input channels by a range of blocks of 2 vectors of output channels, and keeps its sums
[block][channel][tap][2 vectors] in memory that outlives the call. It goes through blocks of output pixels in order:
copies the input rows that the block needs into a buffer [image][column group][row][pitch][channel] (see
taps.py), and grad_output into [block][pixel][2 vectors], so that the register tile finds its channels side by
side and sums over pixels by a table of distances that is the same for all taps.

With few channels in a group that tile would be nearly empty; `expanded` then makes one "channel" of each
(channel, tap), in a buffer [pixel][channel and tap], and there is one tap.
"""

from libc.string cimport memset

from fastconv.kernels.cython.arrays cimport address
from fastconv.kernels.cython.simd cimport (
    FC_BYTES, FC_ROWS, at_least, at_most, ceil_div, fc_give_slot, fc_kernel, fc_slots, fc_take_slot, fill_row, lanes,
    real, tile, transpose)

cdef struct ContractionCall:  # what differs from call to call
    size_t input, grad_output, grad_weight, grad_bias
    size_t sums  # [item][block][channel][tap][2 vectors], of the items from first_item on
    size_t bias_sums  # float64, 2 vectors for each block of output channels of each group; 0: not wanted
    size_t scratch  # scratch_bytes for each slot: buffer, rows to transpose, grad_output, table of pixels
    ptrdiff_t first_item
    ptrdiff_t first_block, last_block  # blocks of pixels that this run adds

cdef struct Contraction:
    ContractionCall call
    # Steps in elements along image, channel, row and column; extents.
    ptrdiff_t input_n, input_c, input_h, input_w, input_rows, input_columns
    ptrdiff_t grad_output_n, grad_output_c, grad_output_h, grad_output_w
    ptrdiff_t step_h, step_w  # stride of the convolution
    ptrdiff_t images, rows, columns  # output pixels
    ptrdiff_t image_block, row_block, column_block
    ptrdiff_t group_in, group_out  # channels of a group; expanded: group_in counts (channel, tap)
    ptrdiff_t channel_block, range_blocks
    # int64 tables: input row of each buffer row and input column of each column group, both for pixel 0; of each tap
    # the distance in the buffer, in pixels. Expanded: of each (channel, tap) its channel, row and column for pixel 0.
    size_t buffer_rows, column_groups, distances, expansion
    ptrdiff_t buffer_row_count, column_group_count, pitch, tap_count
    ptrdiff_t expanded
    ptrdiff_t scratch_bytes, rows_offset, grad_offset, pixels_offset

cdef struct ContractionRun:
    Contraction fields
    fc_slots slots

cdef struct Part:  # one work item
    ptrdiff_t group, channel, channels, first_block, blocks, bias_block

cdef struct Pixels:  # one block of output pixels
    ptrdiff_t image, images, row, rows, column, columns


cdef Part locate(real *unit, const Contraction *t, ptrdiff_t item) noexcept nogil:
    """Items count blocks of input channels fastest: neighbours read the same grad_output."""
    cdef Part p
    cdef ptrdiff_t group_blocks = ceil_div(t.group_out, 2 * lanes(unit))
    cdef ptrdiff_t ranges = ceil_div(group_blocks, t.range_blocks), parts = ceil_div(t.group_in, t.channel_block)
    p.channel = item % parts * t.channel_block
    p.channels = at_most(t.channel_block, t.group_in - p.channel)
    item //= parts
    p.first_block = item % ranges * t.range_blocks
    p.blocks = at_most(t.range_blocks, group_blocks - p.first_block)
    p.group = item // ranges
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
    cdef ptrdiff_t v, c, d, few, step = t.channel_block
    for v in range(ceil_div(channels, lanes(to))):
        c = v * lanes(to)
        few = at_most(lanes(to), channels - c)
        if not 0 <= row < t.input_rows:
            memset(rows, 0, <size_t>(few * count) * sizeof(real))
        else:
            for d in range(few):
                fill_row(rows + d * count, plane + (c + d) * t.input_c + row * t.input_h, t.input_w, column, t.step_w,
                         t.input_columns, count)
        transpose(rows, count, to + c, step, few, count)


cdef void fill(const Contraction *t, const Part *p, const Pixels *x, real *rows, real *to) noexcept nogil:
    """Copy what the block of pixels needs of the item's channels into the buffer, channels last."""
    cdef const ptrdiff_t *buffer_rows = <const ptrdiff_t *>t.buffer_rows
    cdef const ptrdiff_t *columns = <const ptrdiff_t *>t.column_groups
    cdef const real *plane
    cdef ptrdiff_t n, s, r
    for n in range(x.images):
        plane = <const real *>t.call.input + (x.image + n) * t.input_n + (p.group * t.group_in + p.channel) * t.input_c
        for s in range(t.column_group_count):
            for r in range(t.buffer_row_count):
                fill_rows(t, plane, p.channels, buffer_rows[r] + x.row * t.step_h, columns[s] + x.column * t.step_w,
                          t.pitch, rows, to)
                to += t.pitch * t.channel_block


cdef void fill_expanded(const Contraction *t, const Part *p, const Pixels *x, real *rows, real *to) noexcept nogil:
    """to[pixel][l] = the input that tap l of the item reads there."""
    cdef const ptrdiff_t *entry
    cdef const real *plane
    cdef ptrdiff_t n, j, v, c, d, few, h, in_channels = t.group_in // t.tap_count
    for n in range(x.images):
        for j in range(x.rows):
            for v in range(ceil_div(p.channels, lanes(to))):
                c = v * lanes(to)
                few = at_most(lanes(to), p.channels - c)
                for d in range(few):
                    entry = <const ptrdiff_t *>t.expansion + 3 * (p.channel + c + d)
                    h = entry[1] + (x.row + j) * t.step_h
                    plane = <const real *>t.call.input + (x.image + n) * t.input_n + (
                        p.group * in_channels + entry[0]) * t.input_c
                    if 0 <= h < t.input_rows:
                        fill_row(rows + d * x.columns, plane + h * t.input_h, t.input_w,
                                 entry[2] + x.column * t.step_w, t.step_w, t.input_columns, x.columns)
                    else:
                        memset(rows + d * x.columns, 0, <size_t>x.columns * sizeof(real))
                transpose(rows, x.columns, to + c, t.channel_block, few, x.columns)
            to += x.columns * t.channel_block


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
                table[done] = (done if t.expanded else n * plane + j * t.pitch + i) * t.channel_block
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
    cdef ptrdiff_t taps = 1 if t.expanded else t.tap_count, full = 2 * lanes(sums)
    cdef ptrdiff_t block, channels, width, pixels, tiles, tap, done, few
    fill_table(t, x, table)
    if t.expanded:
        fill_expanded(t, p, x, rows, buffer)
    else:
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
                     buffer + done + (0 if t.expanded else distances[tap] * t.channel_block), table, pixels, grad,
                     width, sums + ((block * t.channel_block + done) * taps + tap) * full, taps * full, add)
            done += few
            tiles -= 1


cdef void contract(real *unit, ContractionRun *run, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    cdef const Contraction *t = &run.fields
    cdef int slot = fc_take_slot(&run.slots)
    cdef ptrdiff_t item, block, taps = 1 if t.expanded else t.tap_count
    cdef ptrdiff_t size = t.range_blocks * t.channel_block * taps * 2 * lanes(unit)
    cdef Part p
    cdef Pixels x
    for item in range(first, last):
        p = locate(unit, t, item + t.call.first_item)
        if t.call.bias_sums and p.channel == 0 and t.call.first_block == 0:
            memset(<double *>t.call.bias_sums + p.bias_block * 2 * lanes(unit), 0,
                   <size_t>(p.blocks * 2 * lanes(unit)) * sizeof(double))
        for block in range(t.call.first_block, t.call.last_block):
            x = locate_pixels(t, block)
            contract_block(t, &p, &x, <real *>t.call.sums + item * size, <char *>t.call.scratch + slot * t.scratch_bytes,
                           block > 0)
    fc_give_slot(&run.slots, slot)


cdef void finish(real *unit, const Contraction *t, ptrdiff_t first, ptrdiff_t last) noexcept nogil:
    """Write the finished sums of items as grad_weight[k][c][tap], and grad_bias."""
    cdef ptrdiff_t taps = 1 if t.expanded else t.tap_count, full = 2 * lanes(unit), item, block, k, i
    cdef const real *sums
    cdef ptrdiff_t channels
    cdef Part p
    for item in range(first, last):
        p = locate(unit, t, item + t.call.first_item)
        for block in range(p.blocks):
            sums = <const real *>t.call.sums + (item * t.range_blocks + block) * t.channel_block * taps * full
            channels = at_most(full, t.group_out - (p.first_block + block) * full)
            k = p.group * t.group_out + (p.first_block + block) * full
            transpose(sums, full, <real *>t.call.grad_weight + (k * t.group_in + p.channel) * taps, t.group_in * taps,
                      p.channels * taps, channels)
            if t.call.bias_sums and p.channel == 0:
                for i in range(channels):
                    (<real *>t.call.grad_bias)[k + i] = <real>(<double *>t.call.bias_sums)[(p.bias_block + block) * full + i]


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
                     ptrdiff_t first_item, ptrdiff_t first_block, ptrdiff_t last_block):
    """Pack what comes before it in each call; `grad_bias` is an array or None."""
    cdef ContractionCall call = ContractionCall(
        address(input), address(grad_output), address(grad_weight), address(grad_bias), sums,
        0 if grad_bias is None else bias_sums, scratch, first_item, first_block, last_block)
    return (<char *>&call)[:sizeof(call)]
