"""Places in JSON documents (`data.items[0].id`), and templates that fill in fields of a record."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, TypeAlias
from urllib.parse import quote

from pydantic import AfterValidator

from engine.errors import RecordError

MISSING: Final = object()

_PATH: Final = re.compile(r"[^.\[\]]+(\[-?\d+\])*(\.[^.\[\]]+(\[-?\d+\])*)*|(\[-?\d+\])+")
_STEP: Final = re.compile(r"[^.\[\]]+|\[-?\d+\]")
_FIELD: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def _relative(path: str) -> str:
    if path.startswith(("http://", "https://")):
        raise ValueError("`path` is appended to the `url` of the connection: write only what follows it")
    return path


RelativePath: TypeAlias = Annotated[str, AfterValidator(_relative)]
"""A path that is appended to an address."""


def check_path(path: str) -> str:
    """Return a valid path. Raises ValueError for any other text."""
    if path and not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} is not a place in a document, such as `data.items` or `pages[0].rows`")
    return path


def at_path(document: Any, path: str) -> Any:
    """Return the value at a path, or `MISSING`. The empty path is the document itself.

    A name with dots, such as `@odata.nextLink`, can be the path or its end.
    """
    for found in _STEP.finditer(path):
        step, rest = found[0], path[found.start() :]
        if isinstance(document, Mapping) and rest in document:
            return document[rest]
        if step.startswith("["):
            index = int(step[1:-1])
            if not isinstance(document, list) or not -len(document) <= index < len(document):
                return MISSING
            document = document[index]
        elif isinstance(document, Mapping) and step in document:
            document = document[step]
        else:
            return MISSING
    return document


def place_at(document: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path of names, such as `variables.after`, adding the objects on the way."""
    *way, last = path.split(".")
    for name in way:
        inner = document.get(name)
        document[name] = dict(inner) if isinstance(inner, Mapping) else {}
        document = document[name]
    document[last] = value


def names_in(template: Any) -> list[str]:
    """Return the paths in a template's braces; "" for an unpaired brace."""
    if isinstance(template, str):
        return [found[1] or "" for found in _FIELD.finditer(template) if found[0] not in ("{{", "}}")]
    if isinstance(template, Mapping):
        return [name for one in template.values() for name in names_in(one)]
    return [name for one in template for name in names_in(one)] if isinstance(template, list) else []


def fill(template: Any, record: Mapping[str, Any]) -> Any:
    """Fill a template with the record's values; a text that is a single field becomes the value itself.

    Raises:
        RecordError: the record has no such field.
    """
    if isinstance(template, Mapping):
        return {name: fill(one, record) for name, one in template.items()}
    if isinstance(template, list):
        return [fill(one, record) for one in template]
    if not isinstance(template, str):
        return template
    whole = _FIELD.fullmatch(template)
    if whole and whole[1] is not None:
        return _value(record, whole[1])
    return _FIELD.sub(_filler(record, _plain), template)


def fill_path(template: str, record: Mapping[str, Any]) -> str:
    """Fill a template of a URL's path with URL-encoded values.

    Raises:
        RecordError: a field is missing or empty, or would lead to another path.
    """
    return _FIELD.sub(_filler(record, _segment), template)


def _filler(record: Mapping[str, Any], encode: Callable[[str, Any], str]) -> Callable[[re.Match[str]], str]:
    def one(found: re.Match[str]) -> str:
        name = found[1]
        return found[0][0] if name is None else encode(name, _value(record, name))

    return one


def _value(record: Mapping[str, Any], name: str) -> Any:
    value = at_path(record, name)
    if value is MISSING:
        raise RecordError(f"the record has no field {name!r}", kind="MissingField")
    return value


def _plain(name: str, value: Any) -> str:
    if isinstance(value, Mapping | list):
        raise RecordError(f"the field {name!r} is neither text nor a number", kind="WrongType")
    return "" if value is None else spelled(value)


def spelled(value: object) -> str:
    """Return a value as it is written in a URL; true and false as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _segment(name: str, value: Any) -> str:
    text = _plain(name, value)
    if text in ("", ".", ".."):
        raise RecordError(f"the field {name!r} cannot be a part of a URL", kind="WrongType")
    return quote(text, safe="", errors="replace")
