"""`fastconv info | explain | table`: what can be asked from a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import fastconv


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="fastconv", description="Convolution on the CPU: ask what is here, and why.")
    top.add_argument("--version", action="version", version=f"fastconv {fastconv.__version__}")
    commands = top.add_subparsers(required=True, metavar="info | explain | table")

    info = commands.add_parser("info", help="versions, machine, threads, and every algorithm's availability")
    info.set_defaults(act=_info)
    info.add_argument("--measure", action="store_true", help="measure this machine's limits (a few seconds) first")

    explain = commands.add_parser("explain", help="which algorithm computes a problem, and why not the others")
    explain.set_defaults(act=_explain)
    explain.add_argument(
        "problem", metavar="TEXT", help="such as f32_n8c64h56w56_k64r3s3_pad1:1,1:1 or max_c3h8w8_r2s2"
    )
    directions = ("forward", "backward_input", "backward_weight")
    explain.add_argument("--direction", choices=directions, default="forward")
    explain.add_argument("--threads", type=int, help="as if so many threads were set")

    table = commands.add_parser("table", help="memory and parameters of a network, layer by layer")
    table.set_defaults(act=_table)
    table.add_argument("network", metavar="NAME", help="such as vgg16; an unknown name lists the known ones")
    table.add_argument("--convention", default="cs231n", help="which figures, counted how: cs231n")
    return top


def _info(arguments: argparse.Namespace) -> str:
    if arguments.measure:
        from fastconv import limits

        measured = limits.measure(threads=fastconv.get_num_threads())
        return f"{fastconv.show_config()}\n{_limits(measured.as_dict())}"
    stored = fastconv.machine().measured
    hint = "not measured yet: fastconv info --measure"
    return f"{fastconv.show_config()}\n{_limits(stored.as_dict()) if stored else hint}"


def _limits(measured: dict[str, Any]) -> str:
    peaks = [
        f"peak {dtype} {level}: {rate:.0f} GFLOP/s, one thread"
        for dtype in ("float32", "float64")
        for level, rate in measured[dtype].items()
    ]
    threads = f"{measured['threads']} thread{'s' if measured['threads'] != 1 else ''}"
    return "\n".join(
        [
            *peaks,
            f"peak float32: {measured['threads_float32']:.0f} GFLOP/s, {threads}",
            f"copy: {measured['copy_memory']:.0f} GB/s read + written in memory, {threads}",
            f"copy: {measured['copy_cache']:.0f} GB/s read + written in cache, {threads}",
        ]
    )


def _explain(arguments: argparse.Namespace) -> str:
    with fastconv.use(threads=arguments.threads):
        return str(fastconv.explain(arguments.problem, direction=arguments.direction))


def _table(arguments: argparse.Namespace) -> str:
    from fastconv import summary

    return summary.table(arguments.network, arguments.convention)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the answer; 2 and a line on standard error for a question that has none."""
    arguments = parser().parse_args(argv)
    try:
        print(arguments.act(arguments))
    except (ValueError, RuntimeError) as error:
        print(f"fastconv: {error}", file=sys.stderr)
        return 2
    return 0
