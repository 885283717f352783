"""Dead letters in the original's format, in both of its spellings."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from engine.service.client import ServiceDeadLetter

RECORD = {"id": "l1", "fileName": "a", "level": "NO"}
CAMEL: dict[str, Any] = {
    "originalRecord": RECORD,
    "errorMessage": "Missing fields: message",
    "errorType": "ValidationError",
    "failedAt": "2026-01-01T00:00:00Z",
    "source": "api",
    "requestBody": "[…]",
    "topic": "LogSourceDeadLetterQueue",
}
SNAKE: dict[str, Any] = {
    "original_record": RECORD,
    "error_message": "marked",
    "error_type": "MarkedAsFailure",
    "failed_at": "2026-01-01T00:00:00Z",
    "source": "transform",
}


@pytest.mark.parametrize("given", [CAMEL, SNAKE])
def test_both_spellings_are_read(given: dict[str, Any]) -> None:
    letter = ServiceDeadLetter.model_validate(given)
    assert letter.original_record == RECORD  # whose own fields keep their spelling
    assert (letter.record_id, letter.status) == ("l1", "open")
    assert letter.error_message in ("Missing fields: message", "marked")


def test_a_topic_names_the_model() -> None:
    assert ServiceDeadLetter.model_validate(CAMEL).model == "LogSource"


def test_the_same_letter_has_the_same_id() -> None:
    first, again = (ServiceDeadLetter.model_validate(dict(CAMEL)) for _ in range(2))
    other = ServiceDeadLetter.model_validate({**CAMEL, "originalRecord": {"id": "l2"}})
    assert first.dead_letter_id == again.dead_letter_id != other.dead_letter_id


@pytest.mark.parametrize("given", [{}, {"originalRecord": 5}, [], "x", {"originalRecord": RECORD}])
def test_an_invalid_letter_is_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        ServiceDeadLetter.model_validate(given)
