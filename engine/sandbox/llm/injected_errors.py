"""Failures of a model, injected on purpose.

A plan of faults is a sequence, of which each call uses one entry in order of arrival (None: no fault), or a
function of the documents of a call, for faults that depend on the content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.sandbox.llm.documents import PromptDocument


@dataclass(frozen=True, slots=True)
class OmitSlot:
    """The answer lacks this slot, as if the model had lost count."""

    slot: str


@dataclass(frozen=True, slots=True)
class SwapSlots:
    """The answers of two slots are swapped, including their nonces."""

    first: str
    second: str


@dataclass(frozen=True, slots=True)
class HttpError:
    """An error response in the format of OpenAI's API.

    `retry_after` is in seconds and sent as a header, if given.
    """

    status: int
    code: str
    message: str
    kind: str = "server_error"
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class MalformedJson:
    """A finished answer that is not JSON."""


@dataclass(frozen=True, slots=True)
class Truncated:
    """Half an answer with `finish_reason: "length"`."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal instead of content, as for content that violates a provider's policy."""

    text: str = "I cannot help with that."


Fault = OmitSlot | SwapSlots | HttpError | MalformedJson | Truncated | Refusal
FaultPlan = Sequence[Fault | None] | Callable[[Sequence[PromptDocument]], Fault | None]


def rate_limited(retry_after: float = 1.0) -> HttpError:
    """Return a 429 with a Retry-After in seconds."""
    return HttpError(429, "rate_limit_exceeded", "Rate limit reached.", "requests", retry_after)


def internal_error() -> HttpError:
    """Return a 500, as providers occasionally do."""
    return HttpError(500, "internal_error", "The server had an error while processing your request.")


def damage(answer: dict[str, object], fault: Fault | None) -> dict[str, object]:
    """Apply a fault to the slots of an answer; other faults leave it unchanged."""
    if isinstance(fault, OmitSlot):
        return {slot: value for slot, value in answer.items() if slot != fault.slot}
    if isinstance(fault, SwapSlots) and fault.first in answer and fault.second in answer:
        return answer | {fault.first: answer[fault.second], fault.second: answer[fault.first]}
    return answer
