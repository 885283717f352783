"""The fields of some records: names and JSON types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.contract.types import Record
from engine.dead_letters.queue import as_json

NAMES = {bool: "boolean", int: "integer", float: "number", str: "text", list: "list", dict: "mapping"}
MOST = 200  # fields


def fields_of(records: Sequence[Record]) -> Mapping[str, str]:
    """Return the types of each field: `number`, `integer | text`, with `?` where it is null or missing."""
    kinds: dict[str, dict[str, None]] = {}
    present: dict[str, int] = {}
    for record in records:
        value: Any = as_json(record)[0]
        for name, item in (value if isinstance(value, dict) else {"": value}).items():
            if name in kinds or len(kinds) < MOST:
                seen = kinds.setdefault(name, {})
                if item is not None:
                    seen[NAMES.get(type(item), type(item).__name__)] = None
                    present[name] = present.get(name, 0) + 1
    return {
        name: (" | ".join(seen) or "null") + ("?" if seen and present[name] < len(records) else "")
        for name, seen in kinds.items()
    }
