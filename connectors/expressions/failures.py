"""Errors of expressions. Their messages never show a value."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from types import NoneType
from typing import Final


class InvalidExpressionError(ValueError):
    """The text is not an expression of this language; the message names the column."""


class EvaluationError(Exception):
    """An operation does not work on these values; the message names only their types."""


_KINDS: Final = (
    (NoneType, "None"),
    (bool, "a boolean"),
    (int | float, "a number"),
    (Decimal, "a decimal"),
    (str, "text"),
    (Mapping, "a mapping"),
    (list | tuple | set | frozenset, "a list"),
    (datetime, "a date with time"),
    (date, "a date"),
)


def kind_of(value: object) -> str:
    """Return the kind of a value, for messages."""
    return next((name for kind, name in _KINDS if isinstance(value, kind)), f"a {type(value).__name__}")
