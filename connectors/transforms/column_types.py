"""The columns of a batch for DuckDB: their types, and how they get there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

__all__ = ["ColumnTypes", "check_types", "structure_of"]

_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_ ]*(\(\d+(, ?\d+)?\))?(\[\])?")
_OF_VALUES: Final[Mapping[type, str]] = {
    bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE", str: "VARCHAR",
    list: "JSON", dict: "JSON", tuple: "JSON",
}  # fmt: skip


def check_types(columns: Mapping[str, str]) -> None:
    """Refuse what does not look like a type. Raises ValueError."""
    for name, kind in columns.items():
        if not _TYPE.fullmatch(kind):
            raise ValueError(f"`{name}`: {kind!r} is not a DuckDB type such as DOUBLE, VARCHAR or JSON")


class ColumnTypes:
    """The types of a run's columns: declared, or those of the first values that come.

    They do not change from batch to batch, but that a column of whole numbers becomes DOUBLE with the first
    fraction; a column that a batch lacks is null there.
    """

    def __init__(self, declared: Mapping[str, str] | None) -> None:
        self.known: dict[str, str] = dict(declared or {})
        self._open = declared is None

    def columns(self, records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
        """Return the values of each column."""
        names = self.known
        if self._open:
            names = {**self.known, **{name: "" for record in records for name in record}}
        columns = {name: [record.get(name) for record in records] for name in names}
        if self._open:
            for name, values in columns.items():
                self._learn(name, values)
        return columns

    def _learn(self, name: str, values: Sequence[Any]) -> None:
        known = self.known.get(name)
        if known is None or known == "NULL":
            first = next((value for value in values if value is not None), None)
            known = "NULL" if first is None else _OF_VALUES.get(type(first), "VARCHAR")
            self.known[name] = known
        if known == "BIGINT" and float in set(map(type, values)):
            self.known[name] = "DOUBLE"


def structure_of(types: Mapping[str, str]) -> str:
    """Return the statement that makes the relation `batch` of one JSON parameter with a list a column."""
    # a column of nothing but nulls has no type yet
    inside = ",".join(
        f'"{_escaped(name)}":["{kind if kind != "NULL" else "JSON"}"]' for name, kind in types.items()
    )
    columns = ", ".join(f"unnest(s.{_quoted(name)}) AS {_quoted(name)}" for name in types)
    literal = "{" + inside.replace("'", "''") + "}"
    return (
        f"CREATE OR REPLACE TEMP TABLE batch AS SELECT {columns} "  # noqa: S608 - names are quoted
        f"FROM (SELECT from_json_strict(?, '{literal}') AS s)"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace('"', '\\"')
