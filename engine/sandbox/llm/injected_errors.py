"""What can go wrong with a model, on purpose.

A plan of faults is a sequence, used up one entry a call in their order of arrival (None: no fault), or a
function of the documents of a call, for faults that follow the content rather than the order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.sandbox.llm.documents import PromptDocument


@dataclass(frozen=True, slots=True)
class OmitSlot:
    """The answer lacks this slot, as models do that lose count."""

    slot: str


@dataclass(frozen=True, slots=True)
class SwapSlots:
    """The answers of two slots change places, nonces and all."""

    first: str
    second: str


@dataclass(frozen=True, slots=True)
class HttpError:
    """An error in the shape of OpenAI's API instead of an answer.

    `retry_after` is in seconds and sent as a header when given.
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
    """No content, but a refusal, as with content that a provider's policy does not allow."""

    text: str = "I cannot help with that."


Fault = OmitSlot | SwapSlots | HttpError | MalformedJson | Truncated | Refusal
FaultPlan = Sequence[Fault | None] | Callable[[Sequence[PromptDocument]], Fault | None]


def rate_limited(retry_after: float = 1.0) -> HttpError:
    """429 with a Retry-After in seconds."""
    return HttpError(429, "rate_limit_exceeded", "Rate limit reached.", "requests", retry_after)


def internal_error() -> HttpError:
    """500, as a provider has now and then."""
    return HttpError(500, "internal_error", "The server had an error while processing your request.")


def damage(answer: dict[str, object], fault: Fault | None) -> dict[str, object]:
    """The answer after a fault that concerns its slots; other faults leave it alone."""
    if isinstance(fault, OmitSlot):
        return {slot: value for slot, value in answer.items() if slot != fault.slot}
    if isinstance(fault, SwapSlots) and fault.first in answer and fault.second in answer:
        return answer | {fault.first: answer[fault.second], fault.second: answer[fault.first]}
    return answer
