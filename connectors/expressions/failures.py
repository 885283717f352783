"""Errors of expressions. Their messages never show a value."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal

__all__ = ["EvaluationError", "InvalidExpressionError", "kind_of"]


class InvalidExpressionError(ValueError):
    """The text is not an expression of this language; the message names the column."""


class EvaluationError(Exception):
    """An operation does not work on these values; the message names only their types."""


def kind_of(value: object) -> str:
    """Return the kind of a value, for messages."""
    if value is None:
        return "None"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, Decimal):
        return "a decimal"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    if isinstance(value, datetime):
        return "a date with time"
    if isinstance(value, date):
        return "a date"
    return f"a {type(value).__name__}"
