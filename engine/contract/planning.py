"""Optional methods of components, with which `plan` forecasts what a run would read, write and cost.

A component has such a method or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from engine.contract.split import Split
from engine.contract.types import Record

__all__ = ["DescribesTarget", "Estimate", "EstimatesCost", "MeasuresSplits", "SplitSize"]


@dataclass(frozen=True, slots=True)
class SplitSize:
    """The size of a split according to its listing; None where that is unknown."""

    records: int | None = None
    nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected usage and cost of processing some records.

    Args:
        calls: calls to the model or service.
        tokens_in: tokens of all prompts.
        tokens_out: tokens of all answers.
        cost_usd: price in USD; None when the price is not known.
        notes: the basis of the figures, a few words each.
    """

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float | None = None
    notes: Sequence[str] = ()


@runtime_checkable
class MeasuresSplits(Protocol):
    """A source that knows the size of a split from its manifest, without reading it."""

    def split_size(self, split: Split) -> SplitSize:
        """Return the size of the split."""


@runtime_checkable
class EstimatesCost(Protocol):
    """A transform with paid work. Called inside or outside of `async with`; it must not pay."""

    async def estimate(self, sample: Sequence[Record], total: int) -> Estimate:
        """Estimate the work on `total` records similar to those of the sample (at least one)."""


@runtime_checkable
class DescribesTarget(Protocol):
    """A sink that can describe its target; called before the sink is opened."""

    async def describe_target(self) -> str:
        """Describe the target in a few words: "table orders: 1,204 rows, 6 columns; appends". Changes
        nothing.

        Raises:
            ComponentError: the target cannot be reached.
        """
