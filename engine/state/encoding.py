"""Values as JSON text in the columns of a state store."""

from __future__ import annotations

import json
from typing import Final

from engine.contract.types import JsonValue
from engine.errors import StateCorruptError, StateError

__all__ = ["RESTORE", "decoded", "encoded"]

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for each value

RESTORE: Final = (
    "Restore the state directory from a backup, or move it away to start over; the engine does not start "
    "over by itself"
)


def encoded(value: JsonValue, what: str) -> str:
    """`value` as JSON text, in ASCII so that even lone surrogates pass. `what` names it in the error."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise StateError(f"cannot store {what} as JSON: {error}") from error


def decoded(text: str, what: str) -> JsonValue:
    """The value of JSON text that `encoded` wrote."""
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise StateCorruptError(f"{what} in the state store is damaged: {error}. {RESTORE}") from error
