"""Names of tables and columns in SQL."""

from __future__ import annotations

from typing import Final

__all__ = ["TABLE_PATTERN", "quote", "quote_table"]

TABLE_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$"
"""`table` or `schema.table`."""


def quote(name: str, mark: str = '"') -> str:
    """The name as an identifier; `mark`: what the database quotes it by."""
    return f"{mark}{name.replace(mark, mark * 2)}{mark}"


def quote_table(table: str, mark: str = '"') -> str:
    """`schema.table` as identifiers."""
    return ".".join(quote(name, mark) for name in table.split("."))
