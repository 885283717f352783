"""A target model whose fields are declared in the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, Literal
from warnings import catch_warnings, simplefilter

from pydantic import BaseModel, ConfigDict, JsonValue, create_model
from pydantic import Field as ModelField

__all__ = ["DeclaredField", "declared_model"]

_TYPES: Final[Mapping[str, Any]] = {
    "text": str,
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


class DeclaredField(BaseModel):
    """One field to extract."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str = ModelField(
        default="text",
        description="text, integer, number, decimal, boolean, date, datetime, time, or a list: list[text]",
    )
    description: str = ModelField(default="", description="Description for the model")
    enum: list[str | int | float | bool] = ModelField(default=[], description="Allowed values")
    example: JsonValue = ModelField(default=None, description="Example value for the model")
    required: bool = ModelField(default=False, description="Make records without it dead letters")

    def annotation(self) -> Any:
        """Its Python type. Raises ValueError when there is none of that name."""
        inside = _LIST.fullmatch(self.type.strip())
        name = inside[1] if inside else self.type.strip()
        if name not in _TYPES:
            known = ", ".join(one for one in _TYPES if one not in ("str", "int", "float", "bool"))
            raise ValueError(f"unknown type {self.type!r}; known: {known}, and lists such as list[text]")
        one: Any = Literal[tuple(self.enum)] if self.enum else _TYPES[name]
        return list[one] if inside else one


def declared_model(fields: Mapping[str, DeclaredField]) -> type[BaseModel]:
    """A model of these fields, called `Record`. Raises ValueError, with the name of the field."""
    made: dict[str, Any] = {}
    for name, field in fields.items():
        if not name.isidentifier() or name.startswith("_"):
            raise ValueError(f"`{name}` cannot be the name of a field: use letters, digits and `_`")
        if name.startswith("model_") and hasattr(BaseModel, name):
            raise ValueError(f"`{name}` cannot be the name of a field: Pydantic uses it itself")
        try:
            annotation = field.annotation()
        except ValueError as error:
            raise ValueError(f"`{name}`: {error}") from error
        info = ModelField(
            default=... if field.required else None,
            description=field.description or None,
            examples=None if field.example is None else [field.example],
        )
        made[name] = (annotation if field.required else annotation | None, info)
    with catch_warnings():
        simplefilter("ignore", UserWarning)  # that a field hides an old method: `json`, `copy`
        return create_model("Record", **made)
