"""Medians, percentiles, a bootstrap interval of the median, and values paired by round."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.model import Comparison

RESAMPLES = 5_000
SMALLEST_FOR_INTERVAL = 3


@dataclass(frozen=True, slots=True)
class Summary:
    """``n`` values: their median, range and the 95 % interval of the median (None below three values)."""

    n: int
    median: float
    low: float
    high: float
    interval: tuple[float, float] | None


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two in the middle. Raises ValueError when there are none."""
    if not values:
        raise ValueError("no median of no values")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest value that ``percent`` % of all values do not exceed."""
    if not values:
        raise ValueError("no percentile of no values")
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile lies above 0 and up to 100, not at {percent}")
    # Rounded first: 0.999 * 1000 is a hair above 999 in binary and would be taken one rank too high.
    rank = math.ceil(round(percent * len(values) / 100, 9))
    return sorted(values)[rank - 1]


def median_interval(values: Sequence[float], seed: int) -> tuple[float, float] | None:
    """The 95 % percentile-bootstrap interval of the median (Efron 1979), the same for the same seed.

    None for fewer than three values, where resampling only returns the range.
    """
    if len(values) < SMALLEST_FOR_INTERVAL:
        return None
    rng = random.Random(seed)
    medians = [median(rng.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return percentile(medians, 2.5), percentile(medians, 97.5)


def summarise(values: Sequence[float], seed: int) -> Summary:
    """Median, range and interval of ``values``."""
    return Summary(len(values), median(values), min(values), max(values), median_interval(values, seed))


def paired(arm: Mapping[int, float], reference: Mapping[int, float], comparison: Comparison) -> list[float]:
    """Compare an arm with the reference within each round that has both; values are keyed by round.

    Comparing within a round cancels the slow drift of the machine, which comparing two medians does not.
    A round whose reference is zero has no ratio and is left out.
    """
    rounds = sorted(arm.keys() & reference.keys())
    if comparison == "difference":
        return [arm[number] - reference[number] for number in rounds]
    return [arm[number] / reference[number] for number in rounds if reference[number]]
