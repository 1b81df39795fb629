"""Summaries of samples, and ratios between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Summary(NamedTuple):
    """Of one candidate's samples, in their unit."""

    minimum: float
    median: float
    low: float  # first quartile
    high: float  # third quartile

    @property
    def spread(self) -> float:
        """Inter-quartile range as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def summarise(samples: Sequence[float]) -> Summary:
    """Minimum, median and quartiles.

    Raises
    ------
    ValueError
        For no samples, and for one that is not finite and positive.
    """
    if not len(samples):
        raise ValueError("no samples to summarise")
    if not all(math.isfinite(value) and value > 0 for value in samples):
        raise ValueError(f"samples must be finite and positive, got {list(samples)}")
    low, median, high = np.percentile(samples, [25, 50, 75])
    return Summary(float(min(samples)), float(median), float(low), float(high))


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round.

    Raises
    ------
    ValueError
        When the two don't have a sample for each round.
    """
    if len(numerator) != len(denominator) or not len(numerator):
        raise ValueError(f"{len(numerator)} and {len(denominator)} samples are not pairs")
    return float(np.median(np.asarray(numerator) / np.asarray(denominator)))


def geometric_mean(values: Sequence[float]) -> float:
    """The mean of ratios; 0 when one of them is 0, NaN of none."""
    if not len(values):
        return math.nan
    if min(values) <= 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, values)) / len(values))
