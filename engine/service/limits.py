"""What the model of a table asks of its values, as SQL: rows of an earlier model may not have it."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from engine.service.wire_types import is_nullable

__all__ = ["allowed_by", "has_no_validators", "takes_null"]

_BOUNDS = {"ge": "{0} >= {1}", "gt": "{0} > {1}", "le": "{0} <= {1}", "lt": "{0} < {1}"}
_LENGTHS = {"min_length": "length({0}) >= {1}", "max_length": "length({0}) <= {1}"}


def allowed_by(field: FieldInfo) -> tuple[str, ...]:
    """Return conditions over `{0}`, a stored value, for the listed texts, bounds and lengths of a field."""
    annotation, metadata = field.annotation, list(field.metadata)
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata += [one for part in more for one in getattr(part, "metadata", [part])]
        elif is_nullable(annotation) and len(rest := _without_null(annotation)) == 1:
            annotation = rest[0]
        else:
            break
    texts = _listed(annotation)
    if texts:
        return (f"{{0}} IN ({', '.join(map(_text, texts))})",)
    known = _BOUNDS if annotation in (int, float) else _LENGTHS if annotation is str else {}
    limits = [(sql, getattr(one, name, None)) for one in metadata for name, sql in known.items()]
    return tuple(
        sql.format("{0}", limit)
        for sql, limit in limits
        if isinstance(limit, int | float) and abs(limit) < 2**63
    )


def takes_null(field: FieldInfo) -> bool:
    """Return whether rows may have null in this field; also if only code of the user could tell."""
    if is_nullable(field.annotation) or any(hasattr(one, "func") for one in field.metadata):
        return True
    try:
        TypeAdapter(cast(Any, field.annotation)).validate_python(None)
    except ValidationError:
        return False
    except Exception:  # noqa: BLE001 - a type of the user's own, which a model may know how to read
        return True
    return True


def has_no_validators(model: type[BaseModel]) -> bool:
    """Return whether the types of a model alone determine its values, without validators of its own."""
    decorators = model.__pydantic_decorators__
    return not (decorators.field_validators or decorators.validators or decorators.model_validators)


def _without_null(annotation: Any) -> list[Any]:
    return [part for part in get_args(annotation) if part is not type(None)]


def _listed(annotation: Any) -> list[str]:
    values: list[Any] = []
    if get_origin(annotation) is Literal:
        values = list(get_args(annotation))
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        values = [member.value for member in annotation]
    return values if all(type(one) is str for one in values) else []


def _text(value: str) -> str:
    escaped = value.replace("'", "''").replace("{", "{{").replace("}", "}}")
    return f"'{escaped}'"
