"""A target model from fields declared in the pipeline file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from math import inf
from typing import Any, Final, Literal, Self
from warnings import catch_warnings, simplefilter

from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from pydantic import Field as ModelField

_TYPES: Final[Mapping[str, Any]] = {
    "text": str,
    "string": str,
    "str": str,
    "integer": int,
    "int": int,
    "number": float,
    "float": float,
    "decimal": Decimal,
    "boolean": bool,
    "bool": bool,
    "date": date,
    "datetime": datetime,
    "time": time,
}
_LIST: Final = re.compile(r"list\[\s*(\w+)\s*\]")
_KNOWN: Final = ", ".join(name for name in _TYPES if name not in ("string", "str", "int", "float", "bool"))


class DeclaredField(BaseModel):
    """One field to extract. `total: decimal` is short for `total: {type: decimal}`, `total:` for a text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str = ModelField(
        default="text",
        description="text, integer, number, decimal, boolean, date, datetime, time, or a list: list[text]",
    )
    description: str = ModelField(default="", description="Description for the model")
    enum: list[str | int | float | bool] = ModelField(default=[], description="Allowed values")
    example: JsonValue = ModelField(default=None, description="Example value for the model")
    required: bool = ModelField(default=False, description="Make records without it dead letters")

    @model_validator(mode="before")
    @classmethod
    def _is_short(cls, field: object) -> object:
        return {} if field is None else {"type": field} if isinstance(field, str) else field

    @field_validator("enum", mode="before")
    @classmethod
    def _lists_values(cls, values: object) -> object:
        for value in values if isinstance(values, list) else ():
            if not isinstance(value, str | int | float) or value != value or value in (inf, -inf):
                raise ValueError(
                    "expected texts, numbers, true or false (null is allowed unless `required: true`)"
                )
        return values

    @field_validator("enum", "example", mode="before")
    @classmethod
    def _has_texts_of_dates(cls, value: object) -> object:
        return without_dates(value)

    @field_validator("type", mode="before")
    @classmethod
    def _is_known(cls, name: object) -> object:
        inner = _inner(name) if isinstance(name, str) else None
        if inner in _TYPES:
            return name
        optional = (isinstance(name, list) and None in name) or str(name).endswith("?")
        told = " (null is allowed unless `required: true`)" if optional else ""
        raise ValueError(f"expected one of {_KNOWN}, or a list of one, such as list[text]{told}")

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        name = _inner(self.type)
        typed = "type" in self.model_fields_set
        if not typed and any(isinstance(value, bool) for value in self.enum):
            raise ValueError(
                "`enum`: YAML reads yes, no, on and off as true or false; put quotes around them, or set "
                "`type: boolean`"
            )
        for value in self.enum if typed else ():
            if not _fits(_TYPES[name], value, strict=True):
                quoted = "; put quotes around it" if _TYPES[name] is str else ""
                raise ValueError(f"`enum`: {value!r} does not fit the type {name}{quoted}")
        if self.example is not None and not any(_fits(one, self.example) for one in self._examples()):
            raise ValueError(f"`example`: {self.example!r} does not fit the type or the `enum`")
        return self

    def _examples(self) -> list[Any]:
        """The types of examples: an example may be one item of a list, and a text may look like a number."""
        item = Literal[tuple(self.enum)] if self.enum else _TYPES[_inner(self.type)]
        return [self.annotation(), item, *([float] if item is str else [])]

    def annotation(self) -> Any:
        """Its Python type."""
        name = _inner(self.type)
        inside = name != self.type.strip().casefold()
        one: Any = Literal[tuple(self.enum)] if self.enum else _TYPES[name]
        return list[one] if inside else one


def _fits(annotation: Any, value: JsonValue, *, strict: bool = False) -> bool:
    try:
        TypeAdapter(annotation).validate_json(json.dumps(value), strict=strict)
    except ValidationError:
        return False
    return True


def without_dates(value: object) -> object:
    """Return the value with dates and times as text: YAML reads 2026-01-31 as a date."""
    if isinstance(value, Mapping):
        return {name: without_dates(one) for name, one in value.items()}
    if isinstance(value, list):
        return [*map(without_dates, value)]
    return value.isoformat() if isinstance(value, date | time) else value


def _inner(name: str) -> str:
    """The type of a value, or of the items of a list."""
    name = name.strip().casefold()
    inside = _LIST.fullmatch(name)
    return inside[1] if inside else name


def declared_model(fields: Mapping[str, DeclaredField]) -> type[BaseModel]:
    """Create a model of these fields, called `Record`. Raises ValueError, which names the field."""
    made: dict[str, Any] = {}
    for name, field in fields.items():
        if not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"`{name}` cannot be the name of a field: use letters, digits and `_`")
        if name.startswith("model_") and hasattr(BaseModel, name):
            raise ValueError(f"`{name}` cannot be the name of a field: Pydantic uses it itself")
        annotation = field.annotation()
        info = ModelField(
            default=... if field.required else None,
            description=field.description or None,
            examples=None if field.example is None else [field.example],
        )
        made[name] = (annotation if field.required else annotation | None, info)
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # warns that a field hides a deprecated method: `json`, `copy`
        return create_model("Record", **made)
