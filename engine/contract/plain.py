"""JSON values of models and sets, the same in every process.

The iteration order of a set of texts differs from process to process, and a record that is delivered again
has to be equal.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Set
from functools import cache
from typing import Any

from pydantic import BaseModel, RootModel, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

__all__ = ["has_sets", "in_order", "model_to_json", "with_sets_in_order"]


def in_order(members: Iterable[Any]) -> list[Any]:
    """Return the members of a set, sorted; by their JSON text if they cannot be compared."""
    values = list(members)
    if not any(isinstance(one, Set) for one in values):  # they compare as subsets
        try:
            return sorted(values)
        except TypeError:
            pass
    return sorted(values, key=_text)


def model_to_json(record: BaseModel, *, by_alias: bool | None = None) -> dict[str, Any]:
    """Return `model_dump(mode="json")` of a record, with sets in order."""
    dumped: dict[str, Any] = record.model_dump(mode="json", by_alias=by_alias)
    return with_sets_in_order(record, dumped) if _model_has_sets(type(record)) else dumped


def has_sets(kind: Any) -> bool:
    """Whether JSON values of a type contain lists that are sets; true if its schema is unknown."""
    try:
        return "'uniqueItems': True" in str(TypeAdapter(kind).json_schema(mode="serialization"))
    except (PydanticInvalidForJsonSchema, PydanticUserError):
        return True


_model_has_sets = cache(has_sets)


def with_sets_in_order(value: object, dumped: Any) -> Any:
    """Return the JSON dump of a value, with the lists that are sets in the value in order."""
    if isinstance(value, RootModel):
        return with_sets_in_order(value.root, dumped)
    if isinstance(dumped, dict):
        values = map(with_sets_in_order, _values(value, dumped), dumped.values())
        return dict(zip(dumped, values, strict=True))
    if isinstance(dumped, list) and isinstance(value, Collection) and len(value) == len(dumped):
        items = list(map(with_sets_in_order, value, dumped))
        return in_order(items) if isinstance(value, Set) else items
    return dumped


def _values(value: object, dumped: dict[str, Any]) -> Collection[object]:
    """Return the values of a dump's entries: those of a mapping, or of a model by names or aliases."""
    if isinstance(value, Mapping) and len(value) == len(dumped):
        return value.values()
    fields = getattr(type(value), "__pydantic_fields__", {})
    names = {field.serialization_alias: name for name, field in fields.items()}
    return [getattr(value, names.get(key, key), None) for key in dumped]


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=_members)


def _members(value: object) -> object:
    return in_order(value) if isinstance(value, Set) else str(value)
