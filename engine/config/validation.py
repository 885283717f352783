"""Translate Pydantic's errors into problems at their place in the file."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Sequence
from datetime import date
from difflib import get_close_matches
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, SecretBytes, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from engine.config.problems import Problems, describe, listed, nearest, redacted, unknown
from engine.config.values import Value

M = TypeVar("M", bound=BaseModel)

# Pydantic's own messages never repeat the input; those of validators may, so even short texts are hidden.
_MIN_SECRET: Final = 4
_SURELY: Final = 0.75  # a name less similar to a node's key may be a parameter of its component


def validate(model: type[M], value: Value, problems: Problems, *, partial: bool = False) -> M | None:
    """Validate a mapping; on failure, report to `problems` and return None.

    Problems reported before (leaves marked `failed`) are not reported again.

    Args:
        partial: some fields are not known yet, so missing fields and rules of the whole are not checked.
    """
    if value.failed:
        return None
    if not value.is_mapping:
        problems.add(value.place, f"expected a mapping, got {describe(value)}")
        return None
    try:
        result = model.model_validate(value.plain())
    except ValidationError as error:
        details = error.errors(include_url=True, include_input=False)
        meant = _meant(details, model)
        for group in _by_place(details, value):
            if group[0]["type"] == "missing" and tuple(group[0]["loc"]) in meant:
                continue  # it exists, under a misspelt name that is reported
            if not partial or (group[0]["loc"] and group[0]["type"] != "missing"):
                _report(group, model, value, problems)
        return None
    return None if value.any_failed() else result


def field_names(model: type[BaseModel]) -> list[str]:
    """Return a model's field names as spelled in the file."""
    return [info.alias or name for name, info in model.model_fields.items()]


def holds_secret(model: type[BaseModel], name: str) -> bool:
    """Return whether the field, or anything in its type, is a secret."""
    for key, info in model.model_fields.items():
        if name in (key, info.alias):
            return any(
                isinstance(part, type) and issubclass(part, SecretStr | SecretBytes)
                for part in _parts(info.annotation)
            )
    return False


def allows_null(annotation: Any) -> bool:
    """Return whether a type accepts None."""
    return annotation is Any or any(part in (None, types.NoneType) for part in _parts(annotation))


def _by_place(details: Sequence[ErrorDetails], value: Value) -> Iterator[list[ErrorDetails]]:
    """Group errors by value: a union reports one for each of its members."""
    groups: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for detail in details:
        depth = len(detail["loc"])
        if detail["type"] not in ("missing", "extra_forbidden"):
            depth = _depth(value, detail["loc"])
        groups.setdefault(detail["loc"][:depth], []).append(detail)
    yield from groups.values()


def _depth(value: Value, loc: Sequence[int | str]) -> int:
    """Return how many steps of `loc` lead to a value; the rest are names of union members and the like."""
    current: Value | None = value
    for depth, step in enumerate(loc):
        current = current.step(step) if current else None
        if current is None:
            return depth
    return len(loc)


def _find(value: Value, loc: Sequence[int | str]) -> Value:
    for step in loc:
        following = value.step(step)
        if following is None:
            break
        value = following
    return value


def _meant(details: Sequence[ErrorDetails], model: type[BaseModel]) -> set[tuple[int | str, ...]]:
    """Return the places of fields that misspelt keys were meant for."""
    found: set[tuple[int | str, ...]] = set()
    for detail in details:
        if detail["type"] == "extra_forbidden":
            *parent, name = detail["loc"]
            owner = _model_at(model, parent)
            near = nearest(str(name), field_names(owner)) if owner is not None else None
            found |= {(*parent, near)} if near else set()
    return found


def _report(group: Sequence[ErrorDetails], model: type[BaseModel], value: Value, problems: Problems) -> None:
    first = group[0]
    loc = first["loc"]
    kind = first["type"]
    if kind == "extra_forbidden":
        parent, name = _find(value, loc[:-1]), str(loc[-1])
        owner = _model_at(model, loc[:-1])
        names = field_names(owner) if owner else []
        of_a_node = "with" in names and not get_close_matches(name, names, n=1, cutoff=_SURELY)
        hint = "parameters of the component go under `with:`" if of_a_node else ""
        problems.add(parent.key_place(name), unknown("key", name, names), hint)
        return
    if kind.startswith("union_tag_") and "ctx" in first:
        loc = (*loc, first["ctx"]["discriminator"].strip("'"))
    if kind in ("missing", "union_tag_not_found"):
        parent = _find(value, loc[:-1])
        problems.add(parent.place.at(str(loc[-1])), f"`{loc[-1]}` is required")
        return
    found = _find(value, loc)
    if found.any_failed():
        return
    wordings = dict.fromkeys(_wording(detail, model) for detail in group)
    message = " or ".join(wordings).replace(" or expected", " or")
    custom = any(not _is_core(detail) for detail in group)
    message = redacted(message, [text for text in value.secrets() if custom or len(text) >= _MIN_SECRET])
    if found is not value:
        hidden = bool(loc) and holds_secret(model, str(loc[0]))
        message += (
            "" if hidden or (custom and not message.startswith("expected")) else f", got {describe(found)}"
        )
    problems.add(found.place, message, _hint(found, kind))


def _wording(detail: ErrorDetails, model: type[BaseModel]) -> str:
    if detail["type"] in ("model_type", "model_attributes_type"):
        owner = _model_at(model, detail["loc"])
        fields = owner.model_fields.items() if owner else ()
        required = listed(info.alias or name for name, info in fields if info.is_required())
        return f"expected a mapping with {required}" if required else "expected a mapping"
    if detail["type"] in ("dict_type", "mapping_type"):
        return "expected a mapping"
    if detail["type"] == "union_tag_invalid" and "ctx" in detail:
        return f"expected one of {detail['ctx']['expected_tags']}"
    if detail["type"] == "too_short" and "ctx" in detail:
        return f"expected at least {detail['ctx']['min_length']}"
    message = detail["msg"]
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    if message.startswith("Input should be "):
        return "expected " + message.removeprefix("Input should be ").partition(", unable to")[0]
    if message.startswith("Input should "):
        return "this should " + message.removeprefix("Input should ")
    return message


def _is_core(detail: ErrorDetails) -> bool:
    return "url" in detail and detail["type"] not in ("value_error", "assertion_error")


def _hint(value: Value, kind: str) -> str:
    if kind == "string_type" and isinstance(value.data, bool | int | float | date):
        return "put quotes around it"
    return ""


def _model_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel] | None:
    """Return the model of the mapping at `loc`."""
    current: type[BaseModel] | None = model
    for step in loc:
        annotation = None
        for key, info in (current.model_fields if current else {}).items():
            if step in (key, info.alias):
                annotation = info.annotation
        if annotation is not None:
            models = [
                part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel)
            ]
            current = models[0] if models else None
    return current


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield an annotation and everything inside it."""
    yield annotation
    if typing.get_origin(annotation) is not None or isinstance(annotation, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
