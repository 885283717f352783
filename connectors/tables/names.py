"""Names of tables and columns in SQL."""

from __future__ import annotations

from typing import Final

__all__ = ["TABLE_PATTERN", "quote", "quote_table"]

TABLE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$"
"""`table` or `schema.table`."""


def quote(name: str) -> str:
    """The name as an identifier."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def quote_table(table: str) -> str:
    """`schema.table` as identifiers."""
    return ".".join(map(quote, table.split(".")))
