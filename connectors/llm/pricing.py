"""Prices, costs and budgets of calls."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from connectors.llm.settings import LlmParams
from engine.errors import FatalError

_FREE: Final = "sandbox-extractor"  # the stand-in of the sandbox
_TUNED: Final = ("ft:", "ft-")  # a fine-tuned model, which costs more than its base
_DATED: Final = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest|preview)\Z")
_LEAST: Final = 0.00005  # USD that show as more than 0.0000
_ROUNDING: Final = 1e-9  # USD
_SAMPLE: Final = 1_000  # tokens; some models cost more for long prompts, which are not used here


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and cost of a call, or of one document's share."""

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
    """Price in USD per million tokens; `per_million_cached` is that of cached input, None for no discount."""

    per_million_input: float
    per_million_output: float
    per_million_cached: float | None = None

    def of(self, tokens_in: int, tokens_out: int, cached: int = 0) -> float:
        """Return the price in USD of these tokens, `cached` of the input among them."""
        cheap = self.per_million_input if self.per_million_cached is None else self.per_million_cached
        paid_in = (tokens_in - cached) * self.per_million_input + cached * cheap
        return (paid_in + tokens_out * self.per_million_output) / 1_000_000

    def halved(self) -> Price:
        """Return the price of the Batch API and of the tier `flex`."""
        cached = self.per_million_cached
        return Price(
            self.per_million_input / 2, self.per_million_output / 2, None if cached is None else cached / 2
        )


def price_of(model: str, params: LlmParams, limited: bool = False) -> Price:
    """Return a model's price from the parameters, or from the list of `genai-prices` (loads for 1 s).

    A dated name that is not listed gets the price of its family. An unknown model costs 0 if no budget is
    set. `limited`: the pipeline has a budget.

    Raises:
        FatalError: a budget is set and the price of the model is unknown, so it cannot be enforced.
    """
    known = known_price(model, params)
    if known is None and (params.budget_usd is not None or limited):
        raise FatalError(
            f"cannot enforce a budget: the price of the model {model!r} is unknown; set it next to the "
            "model, in USD per million tokens: `usd_per_million_input: 0.15` and "
            "`usd_per_million_output: 0.60`, or 0 for a model that costs nothing"
        )
    return known or Price(params.usd_per_million_input or 0.0, params.usd_per_million_output or 0.0)


def known_price(model: str, params: LlmParams) -> Price | None:
    """Return the price of a model from the parameters or the list; None if unknown."""
    given_in, given_out = params.usd_per_million_input, params.usd_per_million_output
    if given_in is not None and given_out is not None:
        return Price(given_in, given_out)
    known = Price(0.0, 0.0) if model == _FREE else _listed(model)
    if known is None:
        return None
    if params.is_half_price:
        known = known.halved()
    return Price(
        known.per_million_input if given_in is None else given_in,
        known.per_million_output if given_out is None else given_out,
        known.per_million_cached if given_in is None else None,
    )


def _listed(model: str) -> Price | None:
    """Return the listed price; None if neither the model nor its family is listed."""
    if model.startswith(_TUNED):
        return None
    # its data are part of the package: nothing is downloaded
    from genai_prices import Usage as Tokens
    from genai_prices import calc_price

    for name in _families(model):
        try:
            amounts = [
                float(calc_price(tokens, model_ref=name).total_price)
                for tokens in (
                    Tokens(input_tokens=_SAMPLE),
                    Tokens(output_tokens=_SAMPLE),
                    Tokens(input_tokens=_SAMPLE, cache_read_tokens=_SAMPLE),
                )
            ]
        except LookupError:
            continue
        return Price(*(amount * 1_000_000 / _SAMPLE for amount in amounts))
    return None


def _families(model: str) -> Iterator[str]:
    """Yield variants of the name: without a gateway's vendor prefix, and without its date."""
    names = [model, model.rpartition("/")[2]]
    yield from dict.fromkeys([*names, *(_DATED.sub("", name) for name in names)])


class Budget:
    """A budget in USD; calls in flight reserve their estimated price.

    So concurrent calls exceed the budget only by as much as their estimates were too low.

    Attributes:
        spent: USD so far, including what earlier attempts have paid.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.spent = 0.0
        self._reserved = 0.0

    def reserve(self, estimate: float) -> None:
        """Reserve `estimate` USD for a call. Raises FatalError if less is left."""
        if self.limit is not None and self.spent + self._reserved + estimate > self.limit + _ROUNDING:
            held = f", {self._reserved:.4f} held for calls in flight" if self._reserved > _LEAST else ""
            raise FatalError(
                f"the budget of {self.limit:g} USD does not cover the next call ({self.spent:.4f} USD "
                f"spent{held}); raise `budget_usd` and resume the run",
                kind="budget",
            )
        self._reserved += estimate

    def settle(self, estimate: float, cost: float) -> None:
        """Release the reservation of a finished call and book its cost."""
        self._reserved -= estimate
        self.spent += cost
