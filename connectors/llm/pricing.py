"""Prices, costs and budgets of calls."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from connectors.llm.settings import LlmParams
from engine.errors import FatalError

__all__ = ["Budget", "Price", "Usage", "price_of"]

# USD for a million tokens (prompt, answer), from https://platform.openai.com/docs/pricing in mid-2025.
# Prices change; the parameters of the node win over this table.
_KNOWN: Final = {
    "gpt-5-nano": (0.05, 0.40),
    "gpt-5-mini": (0.25, 2.00),
    "gpt-5": (1.25, 10.00),
    "gpt-4o-mini": (0.15, 0.60),
    "gpt-4o": (2.50, 10.00),
    "gpt-4.1-nano": (0.10, 0.40),
    "gpt-4.1-mini": (0.40, 1.60),
    "gpt-4.1": (2.00, 8.00),
    "sandbox-extractor": (0.0, 0.0),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and their cost, of a call or of one document's share."""

    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0

    def plus(self, other: Usage) -> Usage:
        """Return the sum."""
        tokens_in, tokens_out = self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out
        return Usage(tokens_in, tokens_out, self.cost_usd + other.cost_usd)

    def shared(self, count: int) -> list[Usage]:
        """Divide into equal shares that add up to the whole."""
        ends = [(self.tokens_in * end // count, self.tokens_out * end // count) for end in range(count + 1)]
        return [
            Usage(stop_in - start_in, stop_out - start_out, self.cost_usd / count)
            for (start_in, start_out), (stop_in, stop_out) in pairwise(ends)
        ]


@dataclass(frozen=True, slots=True)
class Price:
    """Price in USD per million tokens."""

    per_million_input: float
    per_million_output: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """Return the price of these tokens in USD."""
        return (tokens_in * self.per_million_input + tokens_out * self.per_million_output) / 1_000_000


def price_of(model: str, params: LlmParams) -> Price:
    """The price of a model: from the parameters, else from the table (dated names count as their family).

    An unknown model costs 0 when no budget is set.

    Raises:
        FatalError: a budget is set and the price of the model is not known, so it could never be kept.
    """
    dated = (price for name, price in _KNOWN.items() if model.startswith(f"{name}-20"))
    known = _KNOWN.get(model) or next(dated, None)
    given_in, given_out = params.usd_per_million_input, params.usd_per_million_output
    if known is None and params.budget_usd is not None and (given_in is None or given_out is None):
        raise FatalError(
            f"cannot enforce `budget_usd`: the price of the model {model!r} is unknown; set "
            "`usd_per_million_input` and `usd_per_million_output` (0 for a model that costs nothing)"
        )
    default_in, default_out = known or (0.0, 0.0)
    return Price(
        default_in if given_in is None else given_in, default_out if given_out is None else given_out
    )


class Budget:
    """A budget in USD; calls in flight reserve their estimated price.

    So calls that run side by side overshoot by no more than their estimates were too low.

    Attributes:
        spent: USD so far; may begin above 0 with what earlier attempts have paid.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.spent = 0.0
        self._reserved = 0.0

    def reserve(self, estimate: float) -> None:
        """Reserve `estimate` USD for a call. Raises FatalError if less is left."""
        if self.limit is not None and self.spent + self._reserved + estimate > self.limit:
            raise FatalError(
                f"the budget of {self.limit:g} USD does not cover the next call ({self.spent:.4f} USD "
                "spent); raise `budget_usd` and resume the run",
                kind="budget",
            )
        self._reserved += estimate

    def settle(self, estimate: float, cost: float) -> None:
        """Release the reservation of a finished call and book its cost."""
        self._reserved -= estimate
        self.spent += cost
