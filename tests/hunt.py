"""An open-ended hunt for wrong numbers: random problems, calls and properties, by the oracle and the definitions.

    python tests/hunt.py --seconds 600                  (make hunt) the parts share the time
    python tests/hunt.py --part conv --step SEED        one step again, as a find is printed
    python tests/hunt.py --problem TEXT                 one problem of two axes again

A find is printed with the line that reproduces it, and the hunt goes on; the exit code says whether there was one.
Each find becomes a named test, in test_finds.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fastconv
from fastconv.planner import REGISTRY
from tests import hunt_calls, hunt_problems, hunt_properties

Step = Callable[[np.random.Generator, Counter[str]], int]

#: What one step of each part does, and how much of the time the part gets beside the others.
PARTS: dict[str, tuple[Step, float]] = {
    "problems": (hunt_problems.step, 3),
    "conv": (hunt_calls.operators("conv1d", "conv2d", "conv3d"), 2),
    "transposed": (hunt_calls.operators("conv_transpose"), 1),
    "pools": (hunt_calls.operators("max_pool", "avg_pool"), 2),
    "others": (hunt_calls.operators("lp_", "adaptive", "max_unpool", "fractional", "unfold", "upsample", "local"), 2),
    "padding": (hunt_calls.padding, 0.5),
    "pad": (hunt_calls.operators("pad"), 0.5),
    "matrices": (hunt_calls.matrices, 1),
    "properties": (hunt_properties.by_hypothesis, 2),
}


@dataclass
class Account:
    """What became of a part."""

    seconds: float = 0.0
    steps: int = 0
    finds: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        checks = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return f"{self.steps} steps in {self.seconds:.0f} s, {self.finds} finds; {checks}"


def take_step(part: str, seed: int, account: Account) -> None:
    """One step, which the seed alone determines."""
    start = time.monotonic()
    finds = PARTS[part][0](np.random.default_rng(seed), account.counts)
    if finds:
        print(f"again: python tests/hunt.py --part {part} --step {seed}", flush=True)
    account.finds += finds
    account.steps += 1
    account.seconds += time.monotonic() - start


def share_time(parts: Sequence[str], seconds: float, seed: int) -> dict[str, Account]:
    """Steps for so long, always of the part that is furthest behind its share; at least one of each."""
    rng, accounts = np.random.default_rng(seed), {part: Account() for part in parts}
    deadline = time.monotonic() + seconds
    while True:
        part = min(parts, key=lambda name: (accounts[name].steps > 0, accounts[name].seconds / PARTS[name][1]))
        if time.monotonic() > deadline and accounts[part].steps:
            return accounts
        take_step(part, int(rng.integers(2**32)), accounts[part])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="how long to hunt")
    parser.add_argument("--seed", type=int, default=None, help="draw the same steps as another hunt; default: new ones")
    parser.add_argument("--part", choices=PARTS, action="append", help="this one alone (may be repeated)")
    parser.add_argument("--step", type=int, help="the seed of a step, to take again")
    parser.add_argument("--problem", help="one problem in its text form, instead of random ones")
    parser.add_argument("--algorithm", help="this one alone")
    options = parser.parse_args(arguments)
    if options.step is not None and len(options.part or ()) != 1:
        parser.error("--step belongs to one --part")
    if options.algorithm:
        for family, algorithms in REGISTRY.items():
            REGISTRY[family] = tuple(entry for entry in algorithms if entry.name == options.algorithm)
    parts = options.part or list(PARTS)
    if options.problem:
        account = Account(steps=8)
        problem = fastconv.parse_problem(options.problem)
        for seed in range(account.steps):
            account.finds += hunt_problems.hunt_one(problem, np.random.default_rng(seed), account.counts)
        accounts = {options.problem: account}
    elif options.step is not None:
        accounts = {parts[0]: Account()}
        take_step(parts[0], options.step, accounts[parts[0]])
    else:
        seed = time.time_ns() % 2**32 if options.seed is None else options.seed
        print(f"hunting for {options.seconds:g} s, --seed {seed}", flush=True)
        accounts = share_time(parts, options.seconds, seed)
    for part, account in accounts.items():
        print(f"{part}: {account}")
    finds = sum(account.finds for account in accounts.values())
    checks = sum(sum(account.counts.values()) for account in accounts.values())
    print(f"{checks} checks, {finds} finds")
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
