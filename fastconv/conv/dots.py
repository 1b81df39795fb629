"""grad_weight as products of rows of pixels, for problems in which channels are few or taps are one.

    grad_weight[k, c, r, s] = sum over (n, p, q) of  grad_output[n, k, p, q] * input[n, c, p*stride - pad + r, ...]

Both factors have their pixels side by side, and so nothing is transposed: vectors run over pixels, a register tile
holds 4 output channels by 6 (channel, tap), and its lanes are added up at the end of a block. On 1x1 layers this
reaches what the tiles over channels lose to transposes; with 3 input channels those would be nearly empty. See
kernels/cython/dots.pyx; the blocks of pixels and the buffer are those of the forward pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastconv import threads as pool
from fastconv.algorithm import Direction
from fastconv.conv import compiled
from fastconv.conv.correlation import Correlation
from fastconv.problem import ITEM_BYTES, ConvProblem
from fastconv.taps import even
from fastconv.workspace import Scratch, aligned_bytes

#: Output channels of a group up to which vectors of them would be nearly empty; input channels below which tiles would.
FEW_OUTPUTS, FEW_INPUTS = 4, 8
#: Pixels of a block: long sums, for their lanes are added up in the end.
BLOCK_PIXELS = 784
#: Pixels of a block from which adding up the lanes costs little, and the least part of the lanes that is in use.
LEAST_PIXELS, LEAST_FILLED = 400, 0.8
#: Items worth having; bytes of the sums of shares beside grad_weight; multiply-accumulates of an item at most between
#: two looks at the signals.
ITEMS, SHARE_BYTES, RUN_MACS = 8, 1 << 20, 50_000_000


@dataclass(frozen=True)
class Schedule:
    """How grad_weight is cut up: a function of problem and vector alone."""

    forward: Correlation
    task: bytes
    shares: int  # of the blocks of pixels, each with sums of its own
    share_blocks: int  # in each but the last
    out_block: int  # output channels of an item
    items: int
    run_blocks: int  # blocks of each share in one run
    sum_bytes: int  # of all shares but the first, and of the bias

    @property
    def blocks(self) -> int:
        """Blocks of pixels."""
        return self.forward.blocks_per_range


@lru_cache(maxsize=4096)
def takes(problem: ConvProblem, vector_bytes: int) -> bool:
    """Whether products of rows are the better way."""
    if problem.group_out_channels <= FEW_OUTPUTS or problem.group_in_channels < FEW_INPUTS:
        return True
    if problem.channels_last or problem.kernel != (1, 1) or problem.pads != ((0, 0), (0, 0)):
        return False
    fields = compiled.gathering(problem, Direction.FORWARD, vector_bytes, BLOCK_PIXELS)[0].fields
    columns = fields["column_block"] * (fields["row_block"] if fields["pitch"] == fields["column_block"] else 1)
    lanes = vector_bytes // ITEM_BYTES[problem.dtype]
    filled = columns / (-(-columns // lanes) * lanes)
    return filled >= LEAST_FILLED and fields["image_block"] * fields["row_block"] * columns >= LEAST_PIXELS


@lru_cache(maxsize=256)
def schedule_of(problem: ConvProblem, vector_bytes: int) -> Schedule:
    """The schedule of grad_weight."""
    forward, task = compiled.gathering(problem, Direction.FORWARD, vector_bytes, BLOCK_PIXELS)
    blocks, item_bytes = max(forward.blocks_per_range, 1), ITEM_BYTES[problem.dtype]
    weights = math.prod(problem.weight_shape)
    chunks = problem.groups * -(-problem.group_in_channels // forward.fields["channel_block"])
    # Shares of the pixels copy and read nothing twice; small maps have too few, and big weights no room for them.
    most = min(-(-ITEMS // chunks), blocks, 1 + SHARE_BYTES // (weights * item_bytes))
    share_blocks = -(-blocks // most)
    shares = -(-blocks // share_blocks)
    out_block = even(problem.group_out_channels, max(-(-problem.group_out_channels * chunks * shares // ITEMS), 1))
    macs = problem.macs // (blocks * chunks * -(-problem.group_out_channels // out_block))
    bias_bytes = aligned_bytes(8 * shares * problem.out_channels)
    return Schedule(
        forward=forward,
        task=task,
        shares=shares,
        share_blocks=share_blocks,
        out_block=out_block,
        items=chunks * -(-problem.group_out_channels // out_block) * shares,
        run_blocks=max(1, RUN_MACS // max(macs, 1)),
        sum_bytes=bias_bytes + aligned_bytes((shares - 1) * weights * item_bytes),
    )


def workspace_bytes(problem: ConvProblem, threads: int) -> tuple[int, int]:
    """Scratch needed, and of use."""
    schedule = schedule_of(problem, compiled.vector_bytes())
    slot_bytes = schedule.forward.slot_bytes
    return schedule.sum_bytes + slot_bytes, schedule.sum_bytes + threads * slot_bytes


def backward_weight(
    problem: ConvProblem,
    grad_output: np.ndarray,
    input: np.ndarray,
    grad_weight: np.ndarray,
    grad_bias: np.ndarray | None,
    scratch: Scratch,
    threads: int,
) -> None:
    """Sum the shares up, then add them."""
    module, schedule = compiled.kernels("dots"), schedule_of(problem, compiled.vector_bytes())
    bias_bytes = aligned_bytes(8 * schedule.shares * problem.out_channels)
    bias_sums, sums = scratch.reserve(bias_bytes), scratch.reserve(schedule.sum_bytes - bias_bytes)
    slot_bytes = schedule.forward.slot_bytes
    threads, _ = compiled.share(scratch.free, 0, 0, slot_bytes, threads)
    slots = scratch.reserve(threads * slot_bytes)
    call = compiled.kernels("direct").correlation_call(input, None, grad_output, 0, None, None, slots) + schedule.task
    for first in range(0, schedule.share_blocks, schedule.run_blocks):
        rest = module.dots_call(
            grad_weight, grad_bias, sums, bias_sums, first, first + schedule.run_blocks, schedule.shares,
            schedule.share_blocks, schedule.blocks, schedule.out_block,
        )  # fmt: skip
        pool.run(module.DOTS[problem.dtype], call + rest, schedule.items, threads)
    if schedule.shares > 1 or grad_bias is not None:
        pool.run(module.FINISH[problem.dtype], call + rest, problem.out_channels, threads)
