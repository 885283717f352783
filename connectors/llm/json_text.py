"""JSON as models write it, read without losing a digit."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["NumberLiteral", "parse"]


class NumberLiteral(float):
    """A number with a point that remembers how it was written: as a float it would lose digits of a price."""

    literal: str

    def __new__(cls, literal: str) -> NumberLiteral:
        number = super().__new__(cls, literal)
        number.literal = literal
        return number


def parse(text: str) -> Any:
    """The value of a JSON text. Whole numbers are exact, others are `NumberLiteral`.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return json.loads(text, parse_float=NumberLiteral)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
