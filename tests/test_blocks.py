"""Schedules of many blocks on small problems: what real layers are cut into, held to the oracle with tolerance zero.

The conformance problems fit into one block of nearly everything. Here the constants from which the schedules follow
are tiny, so that the same problems are cut along every axis, and sums are continued from one run to the next.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from fastconv import parse_problem
from fastconv.algorithm import Direction
from fastconv.conv import compiled, contraction, correlation, depthwise, depthwise_channels, dots, im2col_gemm, tiles
from fastconv.conv import cython_tiled as conv
from fastconv.conv import numba_direct as numba_conv
from fastconv.planner import REGISTRY
from fastconv.pool import cython_tiled as pool
from fastconv.pool import numba_direct as numba_pool
from fastconv.problem import ConvProblem, PoolProblem
from tests import oracle
from tests.checks import assert_same_numbers, run_conv, run_pool_backward, run_pool_forward
from tests.problems import (
    AVG_PROBLEMS,
    CONV_DIRECTIONS,
    CONV_PROBLEMS,
    MAX_PROBLEMS,
    conv_operands,
    integers,
    pool_input,
)

#: By module: the constants of its schedules, so small that blocks are many, and one step each.
SMALL = {
    correlation: {
        "BLOCK_PIXELS": 12, "STRIDED_PIXELS": 12, "NARROW_PIXELS": 40, "NARROW_LEAST": 12, "BLOCK_REDUCTION": 27,
        "SUM_BYTES": 4000, "ITEMS": 1,
    },
    contraction: {"BLOCK_PIXELS": 12, "ITEM_ROWS": 1, "SUM_BYTES": 48 << 10, "ITEMS": 20, "RUN_MACS": 200_000},
    depthwise: {"BUFFER_BYTES": 900, "CHUNK_VECTORS": 5, "MOST_GROUP": 2},
    depthwise_channels: {"CHUNK_PIXELS": 3, "DOT_ITEMS": 7, "GATHER_VECTORS": 2, "DOT_VECTORS": 1},
    dots: {"BLOCK_PIXELS": 12, "RUN_MACS": 2000},
    tiles: {"LEAD": 44, "POSITIONS": 16, "PLANES_BYTES": 4096, "ITEM_FLOPS": 2e4},
    im2col_gemm: {"PIECE_POSITIONS": 40, "PIECE_BYTES": 1, "TAP_BYTES": 1, "PRODUCT_BYTES": 2000},
    pool: {
        "BLOCK_COLUMNS": 16, "BLOCK_BYTES": 600, "LABEL_BYTES": 2000, "GRAD_BYTES": 2000, "CLEAR_BYTES": 600,
        "ITEM_TAPS": 60, "AROUND_BYTES": 600,
    },
    numba_pool: {"ITEM_ELEMENTS": 300},
}  # fmt: skip
SMALLEST = {
    correlation: {
        "BLOCK_PIXELS": 3, "STRIDED_PIXELS": 3, "NARROW_PIXELS": 1, "NARROW_LEAST": 3, "BLOCK_REDUCTION": 1,
        "BUFFER_BYTES": 1, "SUM_BYTES": 1, "ITEM_MACS": 1,
    },
    contraction: {"BLOCK_PIXELS": 3, "ITEM_ROWS": 1, "SUM_BYTES": 1, "RUN_MACS": 1},
    depthwise: {"BUFFER_BYTES": 1, "CHUNK_VECTORS": 1, "TALL": 1},
    depthwise_channels: {"CHUNK_PIXELS": 1, "DOT_ITEMS": 1000, "GATHER_VECTORS": 1, "DOT_VECTORS": 1},
    dots: {"BLOCK_PIXELS": 3, "RUN_MACS": 1, "SHARE_BYTES": 0},
    tiles: {"LEAD": 36, "POSITIONS": 5, "PLANES_BYTES": 1, "LEAST_CHANNELS": 1, "ITEM_FLOPS": 1},
    im2col_gemm: {"PIECE_POSITIONS": 5, "PIECE_BYTES": 1, "TAP_BYTES": 1, "PRODUCT_BYTES": 1},
    pool: {  # channels-last windows one by one, as where there are too many for an item
        "BLOCK_COLUMNS": 5, "BLOCK_BYTES": 1, "LABEL_BYTES": 1, "GRAD_BYTES": 1, "CLEAR_BYTES": 1, "ITEM_VECTORS": 1,
        "AROUND_BYTES": 1,
    },
    numba_pool: {"ITEM_ELEMENTS": 1},
}  # fmt: skip
CACHED = (
    correlation.correlation, contraction.contraction, compiled.gathering, conv._prepared, conv._contracting, dots.takes,
    dots.schedule_of, depthwise.schedule, depthwise_channels.schedule, tiles.correlation_layout,
    tiles.gradient_split, pool._schedule,
)  # fmt: skip

CONV_NAMES = (
    "tiles-f32", "tiles_nhwc-f64", "tiles_stride-f32", "tiles_pointwise-f64",
    "tiles_groups-f64", "depthwise-f32", "depthwise_17-f64", "width_33-f32", "out_channels_33-f64", "batch_9-f64",
    "stride_over_kernel-f32", "depthwise_multiplier_3-f64", "everything_deep-f32", "tiles_depthwise-f32",
    "groups_to_one_output-f32",
)  # fmt: skip
POOL_NAMES = ("large-f32", "large-f64", "ceil_padded-f32", "unequal-f64", "width_66_stride_2-f32", "batch_5-f32")
CHOSEN = {name: CONV_PROBLEMS[name] for name in CONV_NAMES}
#: Several rows or images of a block, and still several blocks.
CHOSEN |= {
    "rows": parse_problem("n2c20h5w5_k40r3s3_pad1:1,1:1"),
    "images": parse_problem("n5c20h2w2_k20r2s2_pad1:0,1:0"),
    "images_expanded": parse_problem("n5c3h2w2_k20r3s3_pad1:1,1:1"),
}
CHOSEN["depthwise_nhwc-f64"] = replace(CONV_PROBLEMS["depthwise_17-f64"], channels_last=True)
CHOSEN["tiles_pointwise_nhwc-f32"] = replace(CONV_PROBLEMS["tiles_pointwise-f32"], channels_last=True)
MAXIMA = {name: MAX_PROBLEMS[name] for name in (*POOL_NAMES, "dilation-f32", "large_nhwc-f64")}
AVERAGES = {name: AVG_PROBLEMS[name] for name in (*POOL_NAMES, "ceil_padded_nopad-f32", "large_nhwc-f64")}


def some(problems):
    return pytest.mark.parametrize("problem", problems.values(), ids=problems.keys())


def blocked(kind):
    """The algorithms that have a schedule: all but the definition."""
    entries = [algorithm for algorithm in REGISTRY[kind] if algorithm.name != "naive" and not algorithm.transforms]
    return pytest.mark.parametrize("algorithm", entries, ids=lambda algorithm: algorithm.name)


def forget():
    for function in CACHED:
        function.cache_clear()


@pytest.fixture(params=[SMALL, SMALLEST], ids=["small", "smallest"])
def schedules(request, monkeypatch):
    for module, constants in request.param.items():
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
    forget()
    yield request.param
    forget()


def skip_unless_available(algorithm):
    if reason := algorithm.unavailable():
        pytest.skip(f"{algorithm.name} is unavailable: {reason}")


#: Threads, and whether with all the scratch that helps or with the least.
RUNS = ((1, False), (3, True))


@cache
def expected_conv(problem: ConvProblem, direction: Direction) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Both operands, the result, and grad_bias or the result with bias and ReLU."""
    data = conv_operands(problem)
    x, w, b, dy = data["input"], data["weight"], data["bias"], data["grad_output"]
    if direction is Direction.FORWARD:
        results = oracle.conv_forward(problem, x, w), oracle.conv_forward(problem, x, w, b).clip(0)
        return x, w, *(result.astype(problem.dtype) for result in results)
    if direction is Direction.BACKWARD_INPUT:
        result = oracle.conv_backward_input(problem, dy, w)
        return dy, w, result.astype(problem.dtype), result.clip(0).astype(problem.dtype)
    results = oracle.conv_backward_weight(problem, dy, x), oracle.conv_backward_bias(problem, dy)
    return dy, x, *(result.astype(problem.dtype) for result in results)


@blocked("conv")
@pytest.mark.parametrize("direction", CONV_DIRECTIONS, ids=str)
@some(CHOSEN)
def test_convolution(algorithm, direction, problem, schedules):
    skip_unless_available(algorithm)
    first, second, expected, other = expected_conv(problem, direction)
    for threads, generous in RUNS:
        what = f"{threads} threads, generous: {generous}"
        resources = {"threads": threads, "generous": generous}
        if direction is Direction.BACKWARD_WEIGHT:
            actual, bias = run_conv(algorithm, problem, direction, first, second, with_grad_bias=True, **resources)
            assert_same_numbers(bias, other, f"grad_bias, {what}")
        else:
            actual = run_conv(algorithm, problem, direction, first, second, **resources)
            bias = conv_operands(problem)["bias"] if direction is Direction.FORWARD else None
            completed = run_conv(
                algorithm, problem, direction, first, second, bias=bias, activation="relu", **resources
            )
            assert_same_numbers(completed, other, f"with its epilogue, {what}")
        assert_same_numbers(actual, expected, what)


@blocked("pool")
@some(MAXIMA)
def test_max_pool(algorithm, problem, schedules):
    skip_unless_available(algorithm)
    dy = integers("grad_output", problem.output_shape, problem.dtype, 99)
    for values in ("integers", "ties", "special"):
        x = pool_input(problem, values)
        maxima = oracle.max_forward(problem, x)
        indices = np.ascontiguousarray(maxima.indices)
        grad_input = oracle.max_backward(problem, dy, indices).astype(problem.dtype)
        for threads, generous in RUNS:
            resources = {"threads": threads, "generous": generous}
            for wanted in (False, True):
                output, found = run_pool_forward(algorithm, problem, x, with_indices=wanted, **resources)
                assert_same_numbers(output, maxima.values.astype(problem.dtype), values)
                if wanted:
                    assert_same_numbers(found, indices, f"indices of {values}")
            actual = run_pool_backward(algorithm, problem, dy, indices=indices, **resources)
            assert_same_numbers(actual, grad_input, f"gradient of {values}")
            actual = run_pool_backward(algorithm, problem, dy, input=x, **resources)
            assert_same_numbers(actual, grad_input, f"gradient of {values}, indices found again")


@blocked("pool")
@some(AVERAGES)
def test_avg_pool(algorithm, problem, schedules):
    skip_unless_available(algorithm)
    multiples = integers("grad_output", problem.output_shape, problem.dtype, 9)
    scale = oracle.divisors(problem)[..., None] if problem.channels_last else oracle.divisors(problem)
    dy = (multiples * scale).astype(problem.dtype)
    grad_input = oracle.avg_backward(problem, dy).astype(problem.dtype)
    for threads, generous in RUNS:
        resources = {"threads": threads, "generous": generous}
        for values in ("integers", "special"):
            x = pool_input(problem, values)
            expected = oracle.avg_forward(problem, x).astype(problem.dtype)
            assert_same_numbers(run_pool_forward(algorithm, problem, x, **resources)[0], expected, values)
        assert_same_numbers(run_pool_backward(algorithm, problem, dy, **resources), grad_input, "gradient")


# -- The schedules are cut along every axis ---------------------------------------------------------


Counts = Iterator[tuple[str, int]]


def pixel_counts(what: str, fields: dict[str, int]) -> Counts:
    for axis in ("image", "row", "column"):
        yield f"{what}: {axis} blocks", -(-fields[f"{axis}s"] // fields[f"{axis}_block"])
        yield f"{what}: {axis}s of a block", fields[f"{axis}_block"]


def cython_counts(problem: ConvProblem) -> Counts:
    vector_bytes = compiled.vector_bytes()
    for direction in (Direction.FORWARD, Direction.BACKWARD_INPUT):
        schedule = correlation.correlation(problem, direction, vector_bytes)
        fields = schedule.fields
        what = f"{direction} {'narrow' if fields['narrow'] else 'wide'}"
        yield from pixel_counts(what, fields)
        yield f"{what}: channel blocks", -(-fields["group_source"] // fields["channel_block"])
        if not fields["narrow"]:
            yield f"{what}: range_blocks", fields["range_blocks"]
            yield f"{what}: ranges of a group", schedule.ranges // problem.groups
    if dots.takes(problem, vector_bytes):
        schedule = dots.schedule_of(problem, vector_bytes)
        yield "dots: blocks", schedule.blocks
        yield "dots: shares", schedule.shares
        yield "dots: ranges", -(-problem.group_out_channels // schedule.out_block)
        yield "dots: runs", -(-schedule.share_blocks // schedule.run_blocks)
        yield "dots: blocks of a run", min(schedule.share_blocks, schedule.run_blocks)
        return
    sums = contraction.contraction(problem, vector_bytes)
    what = "gradient"
    yield from pixel_counts(what, sums.fields)
    yield f"{what}: channel blocks", -(-sums.fields["group_in"] // sums.fields["channel_block"])
    yield f"{what}: range_blocks", sums.fields["range_blocks"]
    yield f"{what}: splits", sums.splits
    yield f"{what}: runs", -(-sums.split_blocks // sums.run_blocks)
    yield f"{what}: blocks of a run", min(sums.run_blocks, sums.split_blocks)


def numba_counts(problem: ConvProblem) -> Counts:
    for direction in (Direction.FORWARD, Direction.BACKWARD_INPUT):
        layout = tiles.correlation_layout(problem, direction)
        yield f"{direction}: row tiles", layout.row_tiles
        yield f"{direction}: column tiles", layout.col_tiles
        yield f"{direction}: rows of a tile", layout.rows.tile
        yield f"{direction}: blocks", layout.blocks
    split = tiles.gradient_split(problem)
    yield "gradient: term blocks", split.term_blocks
    yield "gradient: channel blocks", split.channel_blocks
    yield "gradient: calls", -(-numba_conv._positions(problem) // split.positions)


def im2col_counts(problem: ConvProblem) -> Counts:
    for direction in CONV_DIRECTIONS:
        piece = im2col_gemm._piece(problem, direction, None)
        where = "in place" if im2col_gemm._in_place(problem) else "columns"
        P, Q = problem.out_size
        yield f"{direction} {where}: pieces of a row", -(-Q // piece.columns)
        yield f"{direction} {where}: pieces of an image", -(-P // piece.rows)
        yield f"{direction} {where}: pieces of the batch", -(-problem.batch // piece.images)
        if where == "columns":
            yield f"{direction}: images of a piece", piece.images
            yield f"{direction}: groups of a piece", piece.groups
        elif not problem.channels_last:
            yield f"{direction} {where}: images", problem.batch
        if direction is Direction.BACKWARD_WEIGHT:
            product_rows = im2col_gemm._product_rows(problem, piece)
            yield f"{direction}: products of a piece", -(-problem.group_out_channels // product_rows)


def pool_counts(problem: PoolProblem) -> Counts:
    fields = pool._schedule(problem, pool._kernels("pool").VECTOR_BYTES).fields
    what = f"{problem.kind} {'by window' if fields['way'] == pool.BY_WINDOW else 'by rows'}"
    yield f"{what}: row blocks", -(-fields["rows"] // fields["row_block"])
    yield f"{what}: column blocks", -(-fields["columns"] // fields["column_block"])
    yield f"{what}: columns of a block", fields["column_block"]
    if problem.kind == "max":
        yield f"{what}: row blocks with labels", -(-fields["rows"] // fields["label_block"])
        yield f"{what}: row blocks of the gradient", -(-fields["rows"] // fields["grad_block"])
    elif fields["collects"]:
        yield f"{what}: row blocks of the gradient", -(-fields["input_rows"] // fields["grad_block"])


def band_counts(problem: PoolProblem) -> Counts:
    rows = problem.out_size[0]
    yield f"{problem.kind} forward: bands", -(-rows // numba_pool._band(problem, Direction.FORWARD))
    if problem.kind == "avg":
        band = numba_pool._band(problem, Direction.BACKWARD_INPUT)
        yield "avg backward: bands", -(-problem.in_size[0] // band)


POOLS = [*MAXIMA.values(), *AVERAGES.values()]


@pytest.mark.parametrize(
    ("counts", "problems", "module"),
    [
        (cython_counts, CHOSEN.values(), conv),
        (numba_counts, CHOSEN.values(), None),
        (im2col_counts, CHOSEN.values(), None),
        (pool_counts, POOLS, pool),
        (band_counts, POOLS, None),
    ],
    ids=["cython_conv", "tiles", "im2col", "cython_pool", "bands"],
)
def test_some_problem_has_several_of_everything(counts, problems, module, monkeypatch):
    """Each axis of each schedule is cut for one problem at least, under SMALL or SMALLEST."""
    if module is not None and (reason := module.unavailable()):
        pytest.skip(f"cython_tiled is unavailable: {reason}")
    most: dict[str, int] = {}
    for constants in (SMALL, SMALLEST):
        with monkeypatch.context() as patch:
            for changed, values in constants.items():
                for name, value in values.items():
                    patch.setattr(changed, name, value)
            forget()
            for problem in problems:
                for name, count in counts(problem):
                    most[name] = max(most.get(name, 0), count)
    forget()
    assert most
    assert not [name for name, count in most.items() if count < 2]


def test_shapes_of_the_problems():
    """What a schedule does not show: groups, strides, batches and layouts are among the problems."""
    problems = CHOSEN.values()
    assert {problem.channels_last for problem in problems} == {False, True}
    assert {problem.dtype for problem in problems} == {"float32", "float64"}
    assert any(1 < problem.groups < problem.in_channels for problem in problems)
    assert any(problem.groups == problem.in_channels > 1 for problem in problems)
    assert any(max(problem.stride) > max(problem.kernel) for problem in problems)
    assert any(math.prod(problem.kernel) == 1 and problem.batch > 1 for problem in problems)
