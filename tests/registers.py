"""What a disassembly says of the multiply-adds in a function: how many follow each other, and what uses the stack."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
_INSTRUCTION = re.compile(r"^\s+([0-9a-f]+):\s+(\S+)\s*(.*?)\s*$")
_TARGET = re.compile(r"([0-9a-f]+) <")
_FUSED = re.compile(r"vfn?m(add|sub)\d+p[sd]$")


class Instruction(NamedTuple):
    address: int
    name: str
    operands: str
    framed: bool  # rbp is the frame of the function, and no register like others

    @property
    def multiply_add(self) -> bool:
        """A fused one, on a whole vector of 32 or 64 bytes."""
        return bool(_FUSED.match(self.name) and re.search("%[yz]mm", self.operands))

    @property
    def on_stack(self) -> bool:
        stack = r"\(%r[sb]p" if self.framed else r"\(%rsp"
        return bool(re.search(stack, self.operands) or re.match("push|pop|call", self.name))

    @property
    def reloads_vector(self) -> bool:
        """Reads a vector from the stack: a spill that is waited for. A store alone, or a pointer, costs little."""
        return self.on_stack and "mm" in self.operands and not self.operands.endswith(")")

    @property
    def place(self) -> str:
        """Its operand on the stack."""
        found = re.search(r"[^,]*\(%r[sb]p[^)]*\)", self.operands)
        return found[0] if found else ""

    def __str__(self) -> str:
        return f"{self.name} {self.operands}"


Code = tuple[Instruction, ...]


def functions(text: str) -> dict[str, Code]:
    """The instructions of each function of a disassembly as objdump writes it."""
    bodies: dict[str, list[tuple[int, str, str]]] = {}
    for line in text.splitlines():
        if head := _FUNCTION.match(line):
            body = bodies.setdefault(head[1], [])
        elif entry := _INSTRUCTION.match(line):
            body.append((int(entry[1], 16), entry[2], entry[3]))
    found = {}
    for name, body in bodies.items():
        framed = any(entry[1:] == ("mov", "%rsp,%rbp") for entry in body)
        found[name] = tuple(Instruction(*entry, framed) for entry in body)
    return found


def _jumps(body: Code) -> Iterator[tuple[int, int]]:
    """(from, to) of the jumps within a function."""
    for entry in body:
        target = _TARGET.match(entry.operands) if entry.name.startswith("j") else None
        if target and body[0].address <= int(target[1], 16) <= body[-1].address:
            yield entry.address, int(target[1], 16)


def innermost_loops(body: Code) -> list[Code]:
    """What lies between a jump back and its target, for jumps that enclose no other such jump."""
    spans = [(to, at) for at, to in _jumps(body) if to <= at]
    return [
        tuple(entry for entry in body if start <= entry.address <= end)
        for start, end in spans
        if not any((start, end) != (a, b) and start <= a and b <= end for a, b in spans)
    ]


def straight_loops(body: Code) -> list[Code]:
    """The innermost loops without a branch: what multiplies whole vectors, not what picks up the end of a row."""
    return [loop for loop in innermost_loops(body) if not any(entry.name.startswith("j") for entry in loop[:-1])]


def runs(body: Code) -> list[Code]:
    """From the first to the last multiply-add of each piece of code without a jump out of it or into it."""
    targets = {to for _, to in _jumps(body)}
    pieces: list[list[Instruction]] = [[]]
    for entry in body:
        if entry.address in targets:
            pieces.append([])
        pieces[-1].append(entry)
        if entry.name.startswith(("j", "ret")):
            pieces.append([])
    found = []
    for piece in pieces:
        places = [place for place, entry in enumerate(piece) if entry.multiply_add]
        if places:
            found.append(tuple(piece[places[0] : places[-1] + 1]))
    return found


def multiply_adds(code: Sequence[Instruction]) -> int:
    return sum(entry.multiply_add for entry in code)


def round_trips(code: Code) -> list[str]:
    """Reads of a vector that was written to the stack shortly before."""
    written: set[str] = set()
    found = []
    for entry in code:
        if entry.reloads_vector and entry.place in written:
            found.append(str(entry))
        elif entry.place:
            written.add(entry.place)
    return found


def disassemble(objdump: str, module: Path) -> dict[str, Code]:
    command = [objdump, "-d", "--no-show-raw-insn", str(module)]
    return functions(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
