"""Planted faults, each of which the suite must notice: `make mutants`, or python tests/mutants.py [NAME ...].

For each mutant one text is replaced in a copy of the project, what depends on it is compiled (for one instruction set,
in a build directory that all share), and a part of the suite runs. A mutant that survives is a hole in the suite.
test_mutants.py holds that every replacement matches exactly once, and that each algorithm and direction has its mutant.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.copies import add_extensions, make_copy, run_in_copy  # noqa: E402

#: A mutant must be noticed within so many seconds of computing, compiling included; and it may not hang.
LIMIT = 60.0
HANGS = 300.0

CONV = "tests/test_conformance_conv.py"
POOL = "tests/test_conformance_pool.py"
LAWS = "tests/test_laws.py"
VALUES = "tests/test_edge_values.py"
BLOCKS = "tests/test_blocks.py"
DEPTHWISE = "tests/test_depthwise.py"
DEPTHWISE_CHANNELS = "tests/test_depthwise_channels.py"
PROPERTIES = "tests/test_properties.py"
PARAMETERS = "tests/test_edge_parameters.py"
SHAPES = "tests/test_edge_shapes.py"
REGISTERS = "tests/test_registers.py"
THREADS = "tests/test_threads.py"
WINOGRAD = "tests/test_winograd.py"
PAGES = "tests/test_guard_pages.py"
CORRELATE = "tests/test_correlate.py"
PREPARED = "tests/test_prepared.py"
TUNING = "tests/test_tuning.py"
SETTINGS = "tests/test_settings.py"
WORKSPACE = "tests/test_workspace.py"

NAIVE_CONV, NAIVE_POOL = "fastconv/conv/naive.py", "fastconv/pool/naive.py"


class Mutant(NamedTuple):
    """One fault: in `file`, `old` becomes `new`; the tests `where`, filtered by -k `which`, must notice.

    `kinds` says what it stands for: "conv/NAME direction" for each algorithm, "border", "tail", "tie", "nan",
    "threads", "overflow", "problem", "scratch", "spill", "planner".
    """

    name: str
    kinds: tuple[str, ...]
    file: str
    old: str
    new: str
    where: str
    which: str = ""


MUTANTS: tuple[Mutant, ...] = (
    # -- the definition -----------------------------------------------------------------------------
    Mutant(
        "naive forward: a window begins one row late",
        ("conv/naive forward", "border"),
        "fastconv/conv/naive.py",
        "                                h = p * stride_h - top + r * dil_h\n"
        "                                w = q * stride_w - left + s * dil_w\n"
        "                                inside = 0 <= h < H and 0 <= w < W\n"
        "                                x = input_nchw[n, first_c + c, h, w] if inside else 0.0\n"
        "                                total += x * weight_kcrs",
        "                                h = p * stride_h - top + r * dil_h\n"
        "                                w = q * stride_w - left + s * dil_w\n"
        "                                inside = 0 < h < H and 0 <= w < W\n"
        "                                x = input_nchw[n, first_c + c, h, w] if inside else 0.0\n"
        "                                total += x * weight_kcrs",
        CONV,
        "naive and three",
    ),
    Mutant(
        "naive backward_input: the gaps of a stride are read",
        ("conv/naive backward_input",),
        "fastconv/conv/naive.py",
        "if off_grid_h == off_grid_w == 0 and",
        "if off_grid_h == 0 and",
        CONV,
        "naive and stride and backward_input",
    ),
    Mutant(
        "naive backward_weight: the kernel is turned",
        ("conv/naive backward_weight",),
        "fastconv/conv/naive.py",
        "grad_weight_kcrs[k, c, r, s] = total",
        "grad_weight_kcrs[k, c, R - 1 - r, s] = total",
        CONV,
        "naive and three and backward_weight",
    ),
    Mutant(
        "naive max: the last of equal maxima wins",
        ("pool/naive forward", "tie"),
        "fastconv/pool/naive.py",
        "if x > largest or is_first_nan:",
        "if x >= largest or is_first_nan:",
        POOL,
        "max_forward and naive and halving",
    ),
    Mutant(
        "naive max: NaN loses",
        ("nan",),
        "fastconv/pool/naive.py",
        "if x > largest or is_first_nan:",
        "if x > largest:",
        POOL,
        "max_forward and naive and halving",
    ),
    Mutant(
        "naive average: a share goes to the window's own size",
        ("pool/naive backward_input",),
        "fastconv/pool/naive.py",
        "share = grad_output_pq[p, q] / divisor(problem, p, q)",
        "share = grad_output_pq[p, q] / (problem.kernel[0] * problem.kernel[1])",
        POOL,
        "avg_backward and naive",
    ),
    Mutant(
        "naive average: padding before the input is not counted",
        ("border",),
        "fastconv/pool/naive.py",
        "        if not problem.count_include_pad:\n",
        "        if True:\n",
        POOL,
        "avg_forward and naive",
    ),
    # -- columns and BLAS ---------------------------------------------------------------------------
    Mutant(
        "im2col_gemm forward: zeros after the input are not written",
        ("conv/im2col_gemm forward", "border"),
        "fastconv/conv/im2col_gemm.py",
        "        tap_cnpq[:, :, p, q.stop :] = 0\n",
        "",
        CONV,
        "im2col_gemm and forward and pad",
    ),
    Mutant(
        "im2col_gemm backward_input: columns overwrite instead of adding up",
        ("conv/im2col_gemm backward_input",),
        "fastconv/conv/im2col_gemm.py",
        "np.add(inside_cnpq, tap_cnpq[:, :, p, q], out=inside_cnpq)",
        "inside_cnpq[...] = tap_cnpq[:, :, p, q]",
        CONV,
        "im2col_gemm and backward_input and three",
    ),
    Mutant(
        "im2col_gemm backward_weight: only the last piece counts",
        ("conv/im2col_gemm backward_weight",),
        "fastconv/conv/im2col_gemm.py",
        "grad_weight_gk_crs[part.g, k] += product",
        "grad_weight_gk_crs[part.g, k] = product",
        CONV,
        "im2col_gemm and backward_weight",
    ),
    Mutant(
        "im2col_gemm: the last position of a row is taken for padding",
        ("border",),
        "fastconv/conv/im2col_gemm.py",
        "(size - 1 - offset) // stride + 1",
        "(size - 2 - offset) // stride + 1",
        CONV,
        "im2col_gemm and width",
    ),
    Mutant(
        "im2col_gemm: a piece is larger than its scratch",
        ("scratch",),
        "fastconv/conv/im2col_gemm.py",
        "nbytes += aligned_bytes(piece.groups * reduction * piece.positions * item)",
        "nbytes += piece.groups * reduction * piece.positions",
        CONV,
        "im2col_gemm and everything",
    ),
    # -- problem arithmetic -------------------------------------------------------------------------
    Mutant(
        "problem: ceil_mode keeps a window that starts in the right padding",
        ("problem", "border"),
        "fastconv/problem.py",
        "return windows - 1 if (windows - 1) * stride >= size + pads[0] else windows",
        "return windows",
        PROPERTIES,
        "output_size",
    ),
    Mutant(
        "problem: a dilated window is one position too short",
        ("problem",),
        "fastconv/problem.py",
        "return dilation * (kernel - 1) + 1",
        "return dilation * (kernel - 1) + 1 - (dilation > 1 and kernel > 1)",
        PROPERTIES,
        "output_size",
    ),
    Mutant(
        "problem: sizes beyond 64 bits are let through",
        ("overflow", "problem"),
        "fastconv/problem.py",
        "if nbytes > MAX_BYTES:",
        "if nbytes > MAX_BYTES * MAX_BYTES:",
        PROPERTIES,
        "without_end or without",
    ),
    Mutant(
        "problem: the text loses the padding at the end",
        ("problem",),
        "fastconv/problem_text.py",
        'f"{low}:{high}" for low, high in problem.pads',
        'f"{low}:{low}" for low, high in problem.pads',
        PROPERTIES,
        "reads_back",
    ),
    Mutant(
        "functional: same puts the surplus at the beginning",
        ("problem",),
        "fastconv/functional/arguments.py",
        "pads.append((total // 2, total - total // 2))",
        "pads.append((total - total // 2, total // 2))",
        PARAMETERS,
        "same",
    ),
    Mutant(
        "problem: room along an axis is counted in 32 bits",
        ("overflow", "problem"),
        "fastconv/problem.py",
        "return room // stride + 1",
        "return (room & 0xFFFFFFFF) // stride + 1",
        SHAPES,
        "sizes_are_64_bit",
    ),
    Mutant(
        "planner: a name that refuses runs, one that only has to compile is refused",
        ("planner",),
        "fastconv/planner.py",
        "        if called.reason and not called.on_request:\n            raise",
        "        if called.reason and called.on_request:\n            raise",
        SETTINGS,
        "refusal or missing",
    ),
    # -- compiled by Numba --------------------------------------------------------------------------
    Mutant(
        "numba_direct forward: the first row is taken for padding",
        ("conv/numba_direct forward", "border"),
        "fastconv/kernels/numba/correlate.py",
        "if 0 <= h < task.source_height:",
        "if 0 < h < task.source_height:",
        CONV,
        "numba_direct and forward and f32 and three",
    ),
    Mutant(
        "numba_direct backward_input: results of a stride lie side by side",
        ("conv/numba_direct backward_input",),
        "fastconv/kernels/numba/correlate.py",
        "start = j * task.result_step_w + col_origin",
        "start = j + col_origin",
        CONV,
        "numba_direct and backward_input and f32 and (stride or width)",
    ),
    Mutant(
        "numba_direct backward_weight: the first row is taken for padding",
        ("conv/numba_direct backward_weight", "border"),
        "fastconv/kernels/numba/gradient.py",
        "if 0 <= row < task.height and 0 <= col < task.width:",
        "if 0 < row < task.height and 0 <= col < task.width:",
        CONV,
        "numba_direct and backward_weight and f32 and three",
    ),
    Mutant(
        "numba_direct: threads skip the items of the last one",
        ("threads",),
        "fastconv/kernels/numba/correlate.py",
        "weight_at, buffers, slot, first + slot, last, task.slots,",
        "weight_at, buffers, slot, first + slot, last, task.slots + 1,",
        CONV,
        "numba_direct and forward and f32 and tiles",
    ),
    Mutant(
        "numba_direct max: the last of equal maxima wins",
        ("pool/numba_direct forward", "tie"),
        "fastconv/kernels/numba/pooling.py",
        "wins = (x > best) | ((x != x) & (best == best))",
        "wins = (x >= best) | ((x != x) & (best == best))",
        POOL,
        "max_forward and numba_direct and f32 and halving",
    ),
    Mutant(
        "numba_direct max: NaN is dropped where no index is wanted",
        ("nan",),
        "fastconv/kernels/numba/pooling.py",
        "largest[v] = x if (x > largest[v]) | (x != x) else largest[v]",
        "largest[v] = x if (x > largest[v]) else largest[v]",
        POOL,
        "max_forward and numba_direct and f32 and halving",
    ),
    Mutant(
        "numba_direct max: of overlapping windows the last gradient counts",
        ("pool/numba_direct backward_input",),
        "fastconv/kernels/numba/pooling.py",
        "grad_image[base + to] += grad_output[at + (q + v) * task.output_q]",
        "grad_image[base + to] = grad_output[at + (q + v) * task.output_q]",
        POOL,
        "max_backward and numba_direct and f32 and overlapping",
    ),
    # -- compiled ahead -----------------------------------------------------------------------------
    Mutant(
        "cython_tiled forward: the first row is taken for padding",
        ("conv/cython_tiled forward", "border"),
        "fastconv/kernels/cython/correlation.pxd",
        "if 0 <= h < t.source_rows:",
        "if 0 < h < t.source_rows:",
        CONV,
        "cython_tiled and forward and three",
    ),
    Mutant(
        "cython_tiled forward: a whole vector of channels is written behind the last one",
        ("border",),
        "fastconv/kernels/cython/direct.pyx",
        "cdef ptrdiff_t channels = at_most(width, t.group_dest - block * width)",
        "cdef ptrdiff_t channels = width",
        CONV,
        "cython_tiled and forward and out_channels",
    ),
    Mutant(
        "cython_tiled: the second vector of sums takes the first one's weights",
        ("tail",),
        "fastconv/kernels/cython/simd.h",
        "if (vectors > 1) sums[i][1] += x[i] * b1;",
        "if (vectors > 1) sums[i][1] += x[i] * b0;",
        CONV,
        "cython_tiled and forward and out_channels",
    ),
    Mutant(
        "cython_tiled backward_input: infinite weights meet what lies beyond grad_output",
        ("nan", "conv/cython_tiled backward_input"),
        "fastconv/kernels/cython/direct.pyx",
        "        if exact:\n            correlate_exactly(",
        "        if False:\n            correlate_exactly(",
        VALUES,
        "cython_tiled and (backward_input or outside)",
    ),
    Mutant(
        "cython_tiled backward_input: columns of a stride's last phase are one too few",
        ("conv/cython_tiled backward_input", "tail"),
        "fastconv/kernels/cython/direct.pyx",
        "    for n in range(b.images):\n        for j in range(rows):\n            fetch(ahead)",
        "    if t.dest_step_w > 1 and phase[1] > 0:\n        columns -= 1\n"
        "    for n in range(b.images):\n        for j in range(rows):\n            fetch(ahead)",
        CONV,
        "cython_tiled and backward_input and stride",
    ),
    Mutant(
        "cython_tiled backward_weight: every tap reads what the first one reads",
        ("conv/cython_tiled backward_weight",),
        "fastconv/kernels/cython/gradient.pyx",
        "buffer + done + distances[tap] * t.channel_block",
        "buffer + done + distances[0] * t.channel_block",
        CONV,
        "cython_tiled and backward_weight",
    ),
    Mutant(
        "cython_tiled max: the last of equal maxima wins",
        ("pool/cython_tiled forward", "tie"),
        "fastconv/kernels/cython/pool_windows.pxd",
        "if x > best or (x != x and best == best):",
        "if x >= best or (x != x and best == best):",
        POOL,
        "max_forward and cython_tiled",
    ),
    Mutant(
        "cython_tiled max: NaN loses in a window of its own",
        ("nan",),
        "fastconv/kernels/cython/pool_windows.pxd",
        "if x > best or (x != x and best == best):",
        "if x > best:",
        POOL,
        "max_forward and cython_tiled",
    ),
    Mutant(
        "cython_tiled max: of overlapping windows the last gradient counts",
        ("pool/cython_tiled backward_input",),
        "fastconv/kernels/cython/pooling_backward.h",
        "plane[indices[i]] += from[i];",
        "plane[indices[i]] = from[i];",
        POOL,
        "max_backward and cython_tiled",
    ),
    Mutant(
        "cython_tiled average: windows at the right border divide as those inside",
        ("border",),
        "fastconv/pool/cython_tiled.py",
        "end = np.minimum(begin + problem.kernel[1], size + high)",
        "end = begin + problem.kernel[1]",
        POOL,
        "avg_forward and cython_tiled",
    ),
    Mutant(
        "cython_tiled: a tile keeps a vector in memory",
        ("spill",),
        "fastconv/kernels/cython/simd.h",
        "            sums[i][0] += x[i] * b0;\n",
        "            volatile FC_(fc_vector) spilled = b0;\n            sums[i][0] += x[i] * spilled;\n",
        REGISTERS,
        "register_tile",
    ),
    # -- sums that are continued ------------------------------------------------------------------
    Mutant(
        "cython_tiled backward_weight: each run begins its sums anew",
        ("conv/cython_tiled backward_weight",),
        "fastconv/kernels/cython/gradient.pyx",
        "block > begin)",
        "block > begin + t.call.first_block)",
        BLOCKS,
        "cython_tiled and backward_weight",
    ),
    Mutant(
        "cython_tiled backward_weight: each run of dots begins its sums anew",
        ("conv/cython_tiled backward_weight",),
        "fastconv/kernels/cython/dots.pyx",
        "block > begin)",
        "block > begin + d.first_block)",
        BLOCKS,
        "cython_tiled and backward_weight",
    ),
    Mutant(
        "cython_tiled forward: of channels-last maxima the index stays where the value does not",
        ("pool/cython_tiled forward", "tie"),
        "fastconv/kernels/cython/pooling_channels.h",
        "*index = FC_(fc_choose_integers)(better, (FC_(fc_integers)){0} + here, *index);",
        "*index = FC_(fc_choose_integers)(better, *index, (FC_(fc_integers)){0} + here);",
        POOL,
        "nhwc and cython_tiled",
    ),
    Mutant(
        "cython_tiled forward: a linear layer has one row of the kernel",
        ("conv/cython_tiled forward", "problem"),
        "fastconv/conv/linear.py",
        "features = problem.in_channels * problem.kernel[0] * problem.kernel[1]",
        "features = problem.in_channels * problem.kernel[0]",
        CONV,
        "linear and cython_tiled",
    ),
    Mutant(
        "cython_tiled backward_weight: picked rows begin at the top of the image in every block",
        ("conv/cython_tiled backward_weight", "border"),
        "fastconv/kernels/cython/gradient.pyx",
        "h = buffer_rows[r] + row\n",
        "h = buffer_rows[r]\n",
        BLOCKS,
        "cython_tiled and backward_weight",
    ),
    Mutant(
        "results: freed memory is kept without end",
        ("scratch",),
        "fastconv/native/results.c",
        "kept_bytes + block->bytes > MOST_BYTES)",
        "kept_bytes > 64 * MOST_BYTES)",
        WORKSPACE,
        "results",
    ),
    Mutant(
        "cython_tiled forward: rows of small planes are rotated the wrong way",
        ("conv/cython_tiled forward",),
        "fastconv/kernels/cython/depthwise_small.h",
        "const int d = s - k / 2;",
        "const int d = k / 2 - s;",
        DEPTHWISE,
        "oracle",
    ),
    Mutant(
        "cython_tiled backward_input: infinite depthwise weights meet the zeros beyond grad_output",
        ("conv/cython_tiled backward_input", "nan"),
        "fastconv/kernels/cython/depthwise.pyx",
        "if call.exact and not_finite(",
        "if False and not_finite(",
        DEPTHWISE,
        "finite",
    ),
    Mutant(
        "cython_tiled forward: pixels of a channels-last row share their taps where some are outside",
        ("conv/cython_tiled forward", "border"),
        "fastconv/kernels/cython/depthwise_channels.pyx",
        "if not t.turned and not (0 <= top",
        "if False and not (0 <= top",
        DEPTHWISE_CHANNELS,
        "oracle",
    ),
    Mutant(
        "cython_tiled backward_weight: channels-last sums are not cleared when they are added up",
        ("conv/cython_tiled backward_weight",),
        "fastconv/kernels/cython/depthwise_channels.pyx",
        "sums[tap * t.block + c] = 0",
        "pass",
        DEPTHWISE_CHANNELS,
        "oracle",
    ),
    Mutant(
        "cython_tiled backward_input: rows of small planes of stride 2 are rotated one column too far",
        ("conv/cython_tiled backward_input",),
        "fastconv/kernels/cython/depthwise_small.h",
        "row[0], k / 4 + u)",
        "row[0], k / 4 + u + 1)",
        DEPTHWISE,
        "oracle",
    ),
    Mutant(
        "cython_tiled backward_weight: sums of neighbouring depthwise channels lie on each other",
        ("conv/cython_tiled backward_weight",),
        "fastconv/kernels/cython/depthwise.pyx",
        "block, mine, sums + (item - first) * sums_step,",
        "block, mine, sums,",
        DEPTHWISE,
        "oracle",
    ),
    Mutant(
        "cython_tiled backward_weight: the last vector of a depthwise row counts twice what overlaps",
        ("conv/cython_tiled backward_weight", "tail"),
        "fastconv/kernels/cython/depthwise_wide.h",
        "lane >= (FC_INT)(i + FC_LANES - b.columns)",
        "lane >= 0",
        DEPTHWISE,
        "oracle",
    ),
    Mutant(
        "numba_direct backward_weight: each call begins its sums anew",
        ("conv/numba_direct backward_weight",),
        "fastconv/conv/numba_direct.py",
        "int(first == 0)",
        "1",
        BLOCKS,
        "numba_direct and backward_weight and small and (rows or tiles_stride)",
    ),
    # -- Winograd -----------------------------------------------------------------------------------
    Mutant(
        "cython_winograd forward: a run of tiles that crosses panels stays in the first",
        ("conv/cython_winograd forward", "tail"),
        "fastconv/kernels/cython/winograd.pyx",
        "few = at_most(tiles, t.panel - first % t.panel)",
        "few = tiles",
        WINOGRAD,
        "every_instruction_set",
    ),
    Mutant(
        "cython_winograd backward_input: the taps are not turned",
        ("conv/cython_winograd backward_input",),
        "fastconv/kernels/cython/winograd_size.h",
        "const ptrdiff_t step = turned ? -FC_LANES : FC_LANES;\n    if (turned) taps += 8 * FC_LANES;",
        "const ptrdiff_t step = FC_LANES;",
        WINOGRAD,
        "every_instruction_set",
    ),
    Mutant(
        "cython_winograd backward_weight: each segment of tiles begins its sums anew",
        ("conv/cython_winograd backward_weight", "spill"),
        "fastconv/kernels/cython/winograd_gradient.pyx",
        "cdef int add = t.call.first_tile > 0",
        "cdef int add = 0",
        WINOGRAD,
        "every_instruction_set",
    ),
    Mutant(
        "cython_winograd: the second of a pair of rows of a matrix has the sign of the first",
        ("conv/cython_winograd forward", "conv/cython_winograd backward_weight"),
        "fastconv/winograd.py",
        "(-lead, f'opposite{row}')",
        "(lead, f'opposite{row}')",
        WINOGRAD,
        "every_instruction_set",
    ),
    Mutant(
        "cython_winograd: a run of tiles goes on beyond its row",
        ("border", "conv/cython_winograd forward"),
        "fastconv/kernels/cython/winograd.pxd",
        "g.columns - p.column)",
        "g.columns)",
        WINOGRAD,
        "every_instruction_set",
    ),
    Mutant(
        "cython_winograd: the column behind the last one is read, and not 0",
        ("border", "conv/cython_winograd forward"),
        "fastconv/kernels/cython/winograd_size.h",
        "left = columns - at;",
        "left = columns - at + 1;",
        WINOGRAD,
        "every_instruction_set",
    ),
    Mutant(
        "cython_winograd: the row behind the last one is read, and not 0",
        ("border", "conv/cython_winograd forward"),
        "fastconv/kernels/cython/winograd_size.h",
        "if (h < 0 || h >= rows)",
        "if (h < 0 || h > rows)",
        WINOGRAD,
        "every_instruction_set",
    ),
    Mutant(
        "cython_winograd: a last channel that has a vector for itself is left out",
        ("tail", "conv/cython_winograd forward"),
        "fastconv/kernels/cython/winograd.pyx",
        "    while channel < t.group_source:\n",
        "    while channel + 1 < t.group_source:\n",
        WINOGRAD,
        "every_instruction_set",
    ),
    Mutant(
        "cython_winograd: channels behind the last one are read, and not used",
        ("conv/cython_winograd forward", "tail"),
        "fastconv/kernels/cython/winograd.h",
        "FC_(fc_load_some)(from + j * w_step, channels) : zero",
        "FC_(fc_load)(from + j * w_step) : zero",
        PAGES,
        "winograd_f2",
    ),
    Mutant(
        "cython_winograd forward: each piece of the weights is the first one",
        ("conv/cython_winograd forward",),
        "fastconv/kernels/cython/winograd.pyx",
        "transform_weights(t, t.call.first_block + item,",
        "transform_weights(t, item,",
        WINOGRAD,
        "scratch_and_threads",
    ),
    Mutant(
        "cython_winograd backward_weight: the bias of a channel has the gradient of its neighbour",
        ("conv/cython_winograd backward_weight",),
        "fastconv/kernels/cython/winograd_gradient.pyx",
        "n * t.grad.n + item * t.grad.c",
        "n * t.grad.n + (item ^ (item > 0)) * t.grad.c",
        WINOGRAD,
        "grad_bias",
    ),
    Mutant(
        "cython_winograd backward_weight: the segments depend on the number of threads",
        ("threads",),
        "fastconv/conv/cython_winograd.py",
        "    for first in range(0, schedule.tiles, schedule.segment):\n"
        "        last = min(first + schedule.segment, schedule.tiles)\n",
        "    step = schedule.segment if threads == 1 or not sums else schedule.segment - 1\n"
        "    for first in range(0, schedule.tiles, step):\n"
        "        last = min(first + step, schedule.tiles)\n",
        WINOGRAD,
        "scratch_and_threads",
    ),
    Mutant(
        "cython_winograd: a slot has no room for the whole vectors that a run of columns ends with",
        ("scratch",),
        "fastconv/conv/winograd_blocks.py",
        "columns = -(-(run * size + TAPS - 1) // lanes) * lanes",
        "columns = run * size + TAPS - 1",
        WINOGRAD,
        "every_instruction_set",
    ),
    Mutant(
        "cython_winograd: the workspace is counted without what all threads share",
        ("scratch",),
        "fastconv/conv/cython_winograd.py",
        "return shared + sums.slot_bytes, shared + threads * sums.slot_bytes",
        "return sums.slot_bytes, threads * sums.slot_bytes",
        WINOGRAD,
        "every_instruction_set",
    ),
    Mutant(
        "prepare_conv2d: every group takes the weight of the first",
        ("conv/cython_winograd forward",),
        "fastconv/kernels/cython/winograd.pyx",
        "weights = <real *>t.call.packed + (group * blocks + block) * t.weight_block",
        "weights = <real *>t.call.packed + block * t.weight_block",
        PREPARED,
        "many_blocks",
    ),
    Mutant(
        "planner: a tolerance of 0 admits a transform",
        ("planner",),
        "fastconv/planner.py",
        "elif algorithm.transforms and not using.tolerance:",
        "elif False:",
        WINOGRAD,
        "tolerance_zero",
    ),
    Mutant(
        "planner: auto gives float16 to a transform",
        ("planner",),
        "fastconv/planner.py",
        "        using = replace(using, tolerance=0.0)\n",
        "        pass\n",
        WINOGRAD,
        "half_precision",
    ),
    Mutant(
        "conv2d_input: float16 is given to a transform",
        ("planner",),
        "fastconv/functional/conv_grad.py",
        "None, arguments.is_half(weights)",
        "None, False",
        WINOGRAD,
        "half_precision",
    ),
    Mutant(
        "conv_transpose2d_backward: float16 is given to a transform",
        ("planner",),
        "fastconv/functional/conv_transpose_backward.py",
        "plan(problem, Direction.FORWARD, algorithm, arguments.is_half(given))",
        "plan(problem, Direction.FORWARD, algorithm, False)",
        WINOGRAD,
        "half_precision",
    ),
    Mutant(
        "correlate2d: a preference lets a transform compute integers",
        ("planner",),
        "fastconv/functional/correlate.py",
        'with settings.use(algorithm="auto", tolerance=0.0):',
        "with settings.use(tolerance=0.0):",
        CORRELATE,
        "no_transform",
    ),
    Mutant(
        "tune: what was found holds for any number of threads",
        ("planner", "threads"),
        "fastconv/planner.py",
        'return f"{problem} {direction} x{count} {machine().level} {limits}"',
        'return f"{problem} {direction} {machine().level} {limits}"',
        TUNING,
        "its_threads",
    ),
    Mutant(
        "tune: processes that write at the same time do not wait for each other",
        ("planner",),
        "fastconv/store.py",
        "fcntl.flock(lock, fcntl.LOCK_EX)",
        "fcntl.flock(lock, fcntl.LOCK_SH)",
        TUNING,
        "writers",
    ),
    # -- the split among threads --------------------------------------------------------------------
    Mutant(
        "threads: items that do not divide evenly are lost",
        ("threads",),
        "fastconv/native/pool.c",
        "next += each + (t < larger);",
        "next += each;",
        THREADS,
        "every_item_is_done_once",
    ),
    Mutant(
        "threads: a share is handed out twice",
        ("threads",),
        "fastconv/native/pool.c",
        "&share->next, &next, next + count, memory_order_relaxed,",
        "&share->next, &next, next + (count > 1 ? count - 1 : 1), memory_order_relaxed,",
        THREADS,
        "every_item_is_done_once",
    ),
    Mutant(
        "threads: an item between two slices is lost",
        ("threads",),
        "fastconv/threads.py",
        "        first = last\n",
        "        first = last + 1\n",
        THREADS,
        "slices_cover_every_item",
    ),
)


def required_kinds() -> dict[str, int]:
    """How many mutants of each kind there must be at least."""
    from fastconv.planner import REGISTRY

    required = {"border": 4, "tail": 2, "threads": 2, "overflow": 2, "tie": 2, "nan": 2, "problem": 2}
    required |= {"scratch": 1, "spill": 1, "planner": 1}
    for family, directions in (
        ("conv", ("forward", "backward_input", "backward_weight")),
        ("pool", ("forward", "backward_input")),
    ):
        for algorithm in REGISTRY[family]:
            required |= {f"{family}/{algorithm.group or algorithm.name} {direction}": 1 for direction in directions}
    return required


# -- Running ----------------------------------------------------------------------------------------


def command(*arguments: object, cwd: Path | None = None) -> None:
    done = subprocess.run([str(argument) for argument in arguments], cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


class Project:
    """The copy in which mutants live, one after the other, and its build directory."""

    def __init__(self, place: Path) -> None:
        self.copy = make_copy(place / "project")
        self.build = place / "build"
        tools = Path(sys.executable).parent
        self._ninja = tools / "ninja" if (tools / "ninja").exists() else Path(shutil.which("ninja") or "ninja")
        meson = tools / "meson" if (tools / "meson").exists() else "meson"
        command(meson, "setup", self.build, self.copy, f"-Disa={level()}")
        self.compile()

    def compile(self) -> None:
        """Compile what changed, and put it in its place."""
        command(self._ninja, "-C", self.build)
        add_extensions(self.copy, self.build)

    def test(self, where: str, which: str) -> subprocess.CompletedProcess[str]:
        chosen = ["-k", which] if which else []
        return run_in_copy(
            self.copy,
            ["-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider", "-m", "not serial", *chosen, where],
            timeout=HANGS,
        )

    def judge(self, mutant: Mutant) -> tuple[str, str]:
        """("killed" | "SURVIVED" | "BROKEN", by what)."""
        file = self.copy / mutant.file
        original = file.read_text()
        if original.count(mutant.old) != 1:
            return "BROKEN", f"{original.count(mutant.old)} places match in {mutant.file}"
        file.write_text(original.replace(mutant.old, mutant.new))
        try:
            self.compile()  # matrices in a header are made by Python, too
            done = self.test(mutant.where, mutant.which)
        except subprocess.TimeoutExpired:
            return "killed", "by hanging"
        except RuntimeError as error:
            return "BROKEN", str(error)
        finally:
            file.write_text(original)
        if done.returncode == 1:
            failed = [line.split(" - ")[0] for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
            return "killed", failed[0] if failed else "BROKEN account of skips"
        if done.returncode < 0:
            return "killed", f"by signal {-done.returncode}"
        return ("SURVIVED" if done.returncode == 0 else "BROKEN"), done.stdout[-2000:] + done.stderr[-1000:]


def computing() -> float:
    """Seconds that this process and its children have computed; what else the machine does is left out."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def level() -> str:
    """The best instruction set here: its kernels are the ones that run."""
    from fastconv.machine import machine

    return machine().level


def main(names: Sequence[str]) -> int:
    """Judge the mutants whose name contains one of `names`, or all; 1 if one survives."""
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    faults = 0
    with tempfile.TemporaryDirectory(prefix="fastconv-mutants-") as place:
        start = time.perf_counter()
        project = Project(Path(place))
        print(f"{len(chosen)} mutants; the copy is compiled for {level()}: {time.perf_counter() - start:.0f} s")
        for where in dict.fromkeys(mutant.where for mutant in chosen):
            which = " or ".join(dict.fromkeys(f"({mutant.which})" for mutant in chosen if mutant.where == where))
            healthy = project.test(where, which)
            if healthy.returncode:
                print(f"without a mutant, {where} -k {which!r} fails:\n{healthy.stdout[-4000:]}")
                return 1
        print("without a mutant, all of their tests pass", flush=True)
        for mutant in chosen:
            start = computing()
            verdict, reason = project.judge(mutant)
            seconds = computing() - start
            late = seconds > LIMIT
            faults += verdict != "killed" or late
            print(f"{verdict:9}{seconds:5.0f} s{' TOO LATE' if late else ''}  {mutant.name}", flush=True)
            if verdict != "killed":
                print("    " + reason.replace("\n", "\n    "))
            elif names:
                print("    " + reason)
    print(f"{len(chosen) - faults} of {len(chosen)} killed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
