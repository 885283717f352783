"""A target model from fields declared in the pipeline file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, Literal
from warnings import catch_warnings, simplefilter

from pydantic import BaseModel, ConfigDict, JsonValue, create_model, field_validator
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
_KNOWN: Final = ", ".join(name for name in _TYPES if name not in ("str", "int", "float", "bool"))


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

    @field_validator("type", mode="before")
    @classmethod
    def _is_known(cls, name: object) -> object:
        inner = _inner(name) if isinstance(name, str) else None
        if inner in _TYPES:
            return name
        optional = (isinstance(name, list) and None in name) or str(name).endswith("?")
        told = " (null is allowed unless `required: true`)" if optional else ""
        raise ValueError(f"expected one of {_KNOWN}, or a list of one, such as list[text]{told}")

    def annotation(self) -> Any:
        """Its Python type."""
        name = _inner(self.type)
        inside = name != self.type.strip()
        one: Any = Literal[tuple(self.enum)] if self.enum else _TYPES[name]
        return list[one] if inside else one


def _inner(name: str) -> str:
    """The type of a value, or of the items of a list."""
    inside = _LIST.fullmatch(name.strip())
    return inside[1] if inside else name.strip()


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
