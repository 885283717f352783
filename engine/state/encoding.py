"""Values as JSON text in the columns of a state store."""

from __future__ import annotations

import json
from typing import Final

from engine.contract.types import JsonValue
from engine.errors import StateCorruptError, StateError

# json.dumps would create an encoder for each value
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode

RESTORE: Final = (
    "Restore the state directory from a backup, or move it away to start over; the engine does not start "
    "over by itself"
)


def encoded(value: JsonValue, what: str) -> str:
    """Return `value` as ASCII JSON, which allows lone surrogates. `what` names it in errors."""
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise StateError(f"cannot store {what} as JSON: {error}") from error


def decoded(text: str, what: str) -> JsonValue:
    """Return the value of JSON text that `encoded` wrote."""
    try:
        return json.loads(text)
    except (TypeError, ValueError) as error:
        raise StateCorruptError(f"{what} in the state store is damaged: {error}. {RESTORE}") from error
