"""Encode rows in the text format of COPY, column by column, so that a batch is one write.

Lists are written in PostgreSQL's notation of arrays: `{a,"b c",NULL}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from connectors.tables.values import base64_bytes

_NULL: Final = "\\N"
_SPECIAL: Final = "\\\t\n\r"
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def copy_data(columns: Sequence[Sequence[Any]]) -> bytes:
    """Encode the rows of these columns for COPY … FROM STDIN.

    Raises:
        UnicodeEncodeError: a text has a lone surrogate.
    """
    lines = "\n".join(map("\t".join, zip(*map(_encoded, columns), strict=True)))
    return (lines + "\n").encode() if lines or columns else b""


def _encoded(values: Sequence[Any]) -> list[str]:
    types = set(map(type, values))
    if types <= {str, type(None)}:
        # one search through all of them takes a tenth of the time of checking each
        together = "".join(filter(None, values))
        if any(character in together for character in _SPECIAL):
            return [_NULL if value is None else value.translate(_ESCAPES) for value in values]
        return [_NULL if value is None else value for value in values] if None in values else list(values)
    if types == {int}:
        return list(map(str, values))
    if types == {float}:
        return list(map(repr, values))
    if types == {bool}:
        return list(map(_BOOLEANS.__getitem__, values))
    return [_NULL if value is None else _text(value) for value in values]


_BOOLEANS: Final[Mapping[bool, str]] = {True: "t", False: "f"}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, bool):
        return _BOOLEANS[value]
    if isinstance(value, bytes):
        return "\\\\x" + value.hex()
    return repr(value) if isinstance(value, float) else str(value)


def array_text(sql: str, items: Sequence[Any]) -> str:
    """Write a list as the text of an array of the type `sql`, such as `text[]`.

    A list in it is a dimension, unless the items are JSON.
    """
    nests = not sql.startswith("json")
    return f"{{{','.join([_item(sql, item, nests) for item in items])}}}"


def _item(sql: str, item: Any, nests: bool) -> str:
    if item is None:
        return "NULL"
    if nests and isinstance(item, list | tuple):
        return array_text(sql, item)
    if sql == "bytea[]" and isinstance(item, str):
        item = base64_bytes(item)
    if isinstance(item, bytes):
        item = f"\\x{item.hex()}"
    elif not nests or isinstance(item, dict):
        item = orjson.dumps(item).decode()
    if isinstance(item, bool):
        return str(item).lower()  # for text as well
    if isinstance(item, int | float):
        return repr(item)
    text = str(item).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
