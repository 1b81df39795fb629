"""The hunt's properties: those of test_properties.py by Hypothesis, with other examples in each step, and many."""

from __future__ import annotations

import inspect
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from fastconv.planner import REGISTRY
from tests import test_properties as properties
from tests.checks import DIRECT
from tests.hunt_draws import pick
from tests.problems import conv_operands, pool_input

#: Of each step: a second or two.
EXAMPLES = 150

_half = properties.windows(pads_up_to=lambda kernel: kernel // 2)
_values = st.sampled_from(["integers", "ties", "special"])

#: (test, its strategies, the registry whose algorithms it takes or the mutations)
PROPERTIES: tuple[tuple[Callable[..., None], tuple[Any, ...], Any], ...] = (
    (properties.test_convolution, (properties.conv_problems(), st.integers(1, 3)), "conv"),
    (properties.test_pooling, (properties.pool_problems(), _values, st.integers(1, 3)), "pool"),
    (
        properties.test_a_problem_reads_back_from_its_text,
        (st.one_of(properties.conv_problems(), properties.pool_problems()),),
        None,
    ),
    (properties.test_output_size_counts_the_windows, (_half, st.booleans()), None),
    (properties.test_same_keeps_the_size, (properties.windows(), st.data()), None),
    (properties.test_mutated_problems_are_invalid, (properties.conv_problems(),), properties.FIELD_MUTATIONS),
    (properties.test_mutated_pools_are_invalid, (properties.pool_problems(),), properties.POOL_MUTATIONS),
)


def by_hypothesis(rng: np.random.Generator, counts: Counter[str]) -> int:
    """One property with a seed of its own; what it finds, Hypothesis makes small and prints."""
    test, strategies, kind = pick(rng, *PROPERTIES)
    inner = test.hypothesis.inner_test  # type: ignore[attr-defined]
    rest: dict[str, Any] = {}
    if isinstance(kind, str):
        rest["algorithm"] = pick(rng, *(DIRECT if kind == "conv" else REGISTRY[kind]))
    elif kind is not None:
        rest["mutation"], rest["message"] = pick(rng, *kind.values())
    label = f"{test.__name__.removeprefix('test_')} {getattr(rest.get('algorithm'), 'name', '')}".strip()
    names = list(inspect.signature(inner).parameters)[-len(strategies) :]
    examples = Counter[str]()

    def counted(*values: Any, **named: Any) -> None:
        examples[label] += 1
        inner(*values, **named)

    counted.__signature__ = inspect.signature(inner)  # type: ignore[attr-defined]
    counted.__name__ = test.__name__
    free = settings(
        database=None, deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    drawn = given(**dict(zip(names, strategies, strict=True)))(counted)
    try:
        seed(int(rng.integers(2**32)))(free(drawn))(**rest)
    except pytest.skip.Exception:
        counts[f"{label} refused"] += 1
    except Exception:
        traceback.print_exc()
        print(f"FIND: {label}", flush=True)
        return 1
    finally:
        counts.update(examples)
        conv_operands.cache_clear()
        pool_input.cache_clear()
    return 0
