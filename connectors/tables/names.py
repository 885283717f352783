"""Names of tables and columns in SQL."""

from __future__ import annotations

import re
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, WithJsonSchema

_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$"


def _checked(table: str) -> str:
    if re.fullmatch(_PATTERN, table):
        return table
    bare = table.replace('"', "").replace("`", "")
    if bare != table and re.fullmatch(_PATTERN, bare):
        raise ValueError(f"write {bare} without quotes: names are quoted where they are used, as they are")
    raise ValueError(
        "must be `table` or `schema.table`, of letters, digits and _ (a `query` can read other names)"
    )


TableName: TypeAlias = Annotated[
    str, AfterValidator(_checked), WithJsonSchema({"type": "string", "pattern": _PATTERN})
]
"""`table` or `schema.table`, without quotes."""


def quote(name: str, mark: str = '"') -> str:
    """Quote a name as an identifier; `mark` is the database's quotation mark."""
    return f"{mark}{name.replace(mark, mark * 2)}{mark}"


def quote_table(table: str, mark: str = '"') -> str:
    """Quote `schema.table` as identifiers."""
    return ".".join(quote(name, mark) for name in table.split("."))
