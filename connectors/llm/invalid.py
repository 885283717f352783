"""Describe values that do not fit a model, in the words of its validators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

__all__ = ["details_of", "reason_of", "reasons_of"]

_MAX_REASONS: Final = 5  # of one record


def details_of(error: ValidationError) -> list[ErrorDetails]:
    """Return the errors of single values, without the values."""
    return error.errors(include_url=False, include_input=False, include_context=False)


def reasons_of(details: Sequence[ErrorDetails]) -> str:
    """Describe the first errors, each with the path of its value."""
    shown = "; ".join(
        ": ".join(filter(None, (".".join(map(str, detail["loc"])), reason_of(detail))))
        for detail in details[:_MAX_REASONS]
    )
    more = len(details) - _MAX_REASONS
    return f"{shown}; and {more} more" if more > 0 else shown


def reason_of(detail: ErrorDetails) -> str:
    """Return the message of an error as its validator worded it."""
    return detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
