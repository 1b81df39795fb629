"""Sums of the tiles stay in registers: read off the machine code, for a spill changes no result and costs a third.

What is looked at is what simd.h, planes.h, depthwise.h and winograd.h promise, at the levels with fused multiply-adds.
"""

import re
import shutil
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from fastconv.kernels.cython import built
from tests import registers

#: Of each level: rows of the register tile, vectors of the line tile of 1 to 4 rows, rows of a depthwise tile, and of
#: both sets of the dots tile; rows of the tile of Winograd's grad_weight.
LEVELS = {"v4": (14, (8, 8, 6, 6), 8, (4, 6), 8), "v3": (6, (8, 4, 3, 2), 4, (3, 4), 4)}


@cache
def code(kernel: str, level: str) -> dict[str, registers.Code]:
    objdump = shutil.which("objdump") or pytest.skip("no objdump")
    if not built.COMPILER.startswith("gcc"):
        pytest.skip(f"compiled by {built.COMPILER}, which keeps other functions apart")
    if level not in built.LEVELS:
        pytest.skip(f"{level} is not built")
    (module,) = Path(built.__file__).parent.glob(f"{kernel}_{level}.*.so")
    return registers.disassemble(objdump, module)


def loops(kernel: str, level: str, name: str) -> list[registers.Code]:
    """The innermost loops of a function that multiply and add."""
    return [loop for loop in registers.innermost_loops(code(kernel, level)[name]) if registers.multiply_adds(loop)]


def sizes(pieces: list[registers.Code]) -> Counter[int]:
    return Counter(map(registers.multiply_adds, pieces))


def spills(pieces: list[registers.Code]) -> list[str]:
    """What touches the stack."""
    return [f"{registers.multiply_adds(piece)}: {entry}" for piece in pieces for entry in piece if entry.on_stack]


def reloads(pieces: list[registers.Code]) -> list[str]:
    """What reads vectors from the stack."""
    return [f"{registers.multiply_adds(piece)}: {entry}" for piece in pieces for entry in piece if entry.reloads_vector]


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("kernel", ["direct", "gradient"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_register_tile(level, kernel, kind):
    """One loop for each number of rows, of one and of two vectors, and none touches the stack."""
    found = loops(kernel, level, f"fc_tile_{kind}")
    rows = range(1, LEVELS[level][0] + 1)
    assert sizes(found) == Counter([*rows, *(2 * count for count in rows)])
    assert not spills(found)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_line_tile(level, kind):
    found = loops("direct", level, f"fc_line_{kind}")
    wanted = {rows * few for rows, most in enumerate(LEVELS[level][1], 1) for few in range(1, most + 1)}
    assert set(sizes(found)) == wanted
    assert not spills(found)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_dots_tile(level, kind):
    """Along whole vectors; the ends of rows may go through memory."""
    found = registers.straight_loops(code("dots", level)[f"fc_dots_{kind}"])
    most_rows, most_others = LEVELS[level][3]
    rows, others = range(1, most_rows + 1), range(1, most_others + 1)
    found = [loop for loop in found if registers.multiply_adds(loop)]
    assert sizes(found) == Counter(a * b for a in rows for b in others)
    assert not reloads(found)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_tile_of_depthwise_3x3(level, kind):
    """Strides 1 and 2, each number of rows: sums are in registers, and where there are 32 all nine weights too."""
    found = registers.runs(code("depthwise", level)[f"fc_gather_{kind}"])
    wanted = {9 * rows for rows in range(1, LEVELS[level][2] + 1)}
    tiles = [run for run in found if registers.multiply_adds(run) in wanted]
    assert all(count >= 2 for count in sizes(tiles).values())
    assert set(sizes(tiles)) == wanted
    assert not [trip for run in tiles for trip in registers.round_trips(run)]
    if level == "v4":
        assert not reloads(tiles)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_products_of_depthwise_3x3(level, kind):
    """Four rows of grad_output by nine taps."""
    found = registers.runs(code("depthwise", level)[f"fc_dot_planes_{kind}"])
    tiles = [run for run in found if registers.multiply_adds(run) == 36]
    assert len(tiles) >= 2
    assert not reloads(tiles)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_products_of_winograd(level, kind):
    """Of one and of two vectors: the tile of any number of rows, and that of grad_weight of whole vectors of them."""
    found = loops("winograd", level, f"fc_product_{kind}")
    rows = range(1, LEVELS[level][0] + 1)
    assert set(sizes(found)) == {*rows, *(2 * count for count in rows)}
    assert not spills(found)
    found = loops("winograd_gradient", level, f"fc_outer_{kind}")
    assert sizes(found) == Counter([LEVELS[level][4], 2 * LEVELS[level][4]])
    assert not spills(found)


# -- What reads the machine code, on code that is given ----------------------------------------------

TILE = """
0000000000001000 <fc_tile_f32>:
    1000:	push   %rbx
    1001:	vmovups 0x8(%rsp),%zmm0
    1008:	mov    (%rdx),%rax
    100c:	vmovups (%rcx),%zmm1
    1010:	vfmadd231ps (%rax){1to16},%zmm1,%zmm0
    1018:	SPILL
    1020:	vfmadd231ps 0x4(%rax){1to16},%zmm1,%zmm2
    1028:	add    $0x8,%rdx
    102c:	cmp    %rdx,%rsi
    1030:	jne    1008 <fc_tile_f32+0x8>
    1034:	vmovups %zmm0,0x8(%rsp)
    1038:	jmp    1000 <fc_tile_f32>

0000000000002000 <other>:
    2000:	vfmadd231ss %xmm0,%xmm1,%xmm2
    2008:	jne    2000 <other>
"""


def tile(instead="nop", frame="nop"):
    return registers.functions(re.sub("push +%rbx", frame, TILE.replace("SPILL", instead)))["fc_tile_f32"]


def test_loops_and_runs_are_found():
    (loop,) = registers.innermost_loops(tile())
    assert (loop[0].address, loop[-1].address) == (0x1008, 0x1030)
    (run,) = registers.runs(tile())
    assert (run[0].address, run[-1].address) == (0x1010, 0x1020)
    assert registers.multiply_adds(loop) == registers.multiply_adds(run) == 2
    assert not spills([loop])
    assert registers.straight_loops(tile()) == [loop]
    assert not registers.straight_loops(tile("je 1028"))
    assert not registers.runs(registers.functions(TILE)["other"]), "a scalar is no vector"


@pytest.mark.parametrize(
    ("instead", "reload"),
    [
        ("vmovaps %zmm2,0x40(%rsp)", False),
        ("vmovaps 0x40(%rsp),%zmm2", True),
        ("vfmadd231ps -0x40(%rsp),%zmm1,%zmm3", True),
        ("mov    0x18(%rsp),%rdi", False),
        ("call   3000 <memcpy>", False),
    ],
)
def test_a_spill_is_noticed(instead, reload):
    assert len(spills(registers.innermost_loops(tile(instead)))) == 1
    assert bool(reloads(registers.runs(tile(instead)))) == reload


@pytest.mark.parametrize(("to", "trips"), [(1, 1), (2, 0)])
def test_a_sum_that_is_stored_and_read_again_is_noticed(to, trips):
    between = f"vmovaps %zmm2,0x40(%rsp)\n    1019:	nop\n    101a:	vmovaps {to * 64:#x}(%rsp),%zmm2"
    (run,) = registers.runs(tile(between))
    assert len(registers.round_trips(run)) == trips


def test_rbp_is_the_stack_where_it_is_the_frame():
    load = "vmovaps -0x40(%rbp),%zmm2"
    assert not spills(registers.innermost_loops(tile(load)))
    assert spills(registers.innermost_loops(tile(load, frame="mov    %rsp,%rbp")))
