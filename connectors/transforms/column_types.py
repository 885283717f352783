"""The columns of a batch for DuckDB: their types, and how to load them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter, methodcaller
from typing import Any, Final

import orjson

from engine.errors import RecordError

_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_ ]*(\(\d+(, ?\d+)?\))?(\[\])?")
_UNKNOWN: Final = "NULL"
MAX_COLUMNS: Final = 1_000
"""Maximum columns found in records. Each one slows every later query."""

_NUMBERS: Final = frozenset({"BIGINT", "DOUBLE"})
_LEARNING: Final = _NUMBERS | {_UNKNOWN, "BOOLEAN"}
"""Types for which the values of each batch are checked."""

_NUMBERS_OF_PYTHON: Final = frozenset({int, float})
_OF_VALUES: Final[Mapping[type, str]] = {
    bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE", str: "VARCHAR",
    list: "JSON", dict: "JSON", tuple: "JSON",
}  # fmt: skip


def check_types(columns: Mapping[str, str]) -> None:
    """Refuse texts that are not types. Raises ValueError."""
    for name, kind in columns.items():
        if not _TYPE.fullmatch(kind):
            raise ValueError(f"`{name}`: {kind!r} is not a DuckDB type such as DOUBLE, VARCHAR or JSON")


class ColumnTypes:
    """The types of a run's columns: declared, or inferred from the first values.

    They are the same for all batches, except that an integer column becomes DOUBLE with the first fraction. A
    column that a batch lacks is null there.
    """

    def __init__(self, declared: Mapping[str, str] | None) -> None:
        self.known: dict[str, str] = dict(declared or {})
        self._open = declared is None

    def rows(self, records: Sequence[Mapping[str, Any]], row: str) -> list[str]:
        """Return each record as JSON with every column, except a field called `row`.

        Raises:
            TypeError: a value cannot be written as JSON.
            RecordError: a field has both booleans and numbers, or a name that cannot be a column.
        """
        layouts = set(map(tuple, records))
        if self._open:
            self._learn(records, layouts)
        names = [name for name in self.known if name != row]  # it would be mistaken for the hidden column
        if all(len(layout) == len(names) and set(layout) == set(names) for layout in layouts):
            return [orjson.dumps(record).decode() for record in records]
        return [orjson.dumps({name: record.get(name) for name in names}).decode() for record in records]

    def _learn(self, records: Sequence[Mapping[str, Any]], layouts: Collection[tuple[str, ...]]) -> None:
        known = self.known
        names = dict.fromkeys(name for layout in layouts for name in layout)
        self._check_names(name for name in names if name not in known)
        for name in {**known, **names}:
            kind = known.get(name, _UNKNOWN)
            if kind not in _LEARNING:
                continue
            if kind == _UNKNOWN:
                values = (record.get(name) for record in records)
                first = next((value for value in values if value is not None), None)
                kind = known[name] = _UNKNOWN if first is None else _OF_VALUES.get(type(first), "VARCHAR")
            if kind not in _NUMBERS and kind != "BOOLEAN":
                continue
            everywhere = all(name in layout for layout in layouts)
            get = itemgetter(name) if everywhere else methodcaller("get", name)
            kinds = set(map(type, map(get, records)))
            if kinds & (_NUMBERS_OF_PYTHON if kind == "BOOLEAN" else {bool}):
                # DuckDB would turn every number except 0 into `true`
                raise RecordError(
                    f"field `{name}`: truth values and numbers: name its type in `columns`",
                    kind="SqlError",
                    unplanned=True,
                )
            if kind == "BIGINT" and float in kinds:
                known[name] = "DOUBLE"

    def _check_names(self, names: Iterable[str]) -> None:
        """Refuse records with names that DuckDB does not accept, before they break every query."""
        folded = {_folded(name): name for name in self.known}
        for name in names:
            if not name:
                raise _misnamed("the record has a field without a name")
            try:
                other = folded.setdefault(_folded(name), name)
            except UnicodeEncodeError:
                raise _misnamed("the record has a field whose name is not valid Unicode") from None
            if other != name:
                raise _misnamed(f"the fields `{other[:80]}` and `{name[:80]}` are the same column")
        if len(folded) > MAX_COLUMNS:
            raise _misnamed(f"there are more than {MAX_COLUMNS:,} fields, many of them data")


def _folded(name: str) -> bytes:
    """Fold a name as DuckDB does, which ignores the case of ASCII letters."""
    return name.encode().lower()


def _misnamed(message: str) -> RecordError:
    message = f"{message}: rename it before, or name the fields that the query needs in `columns`"
    return RecordError(message, kind="SqlError", unplanned=True)


def relation_of(types: Mapping[str, str], row: str) -> str:
    """Return a SELECT that turns a list of JSON texts into rows, with their indices in the column `row`.

    Its parameters are the list and its length.
    """
    # a column of only nulls has no type yet
    fields = {name: "JSON" if kind == _UNKNOWN else kind for name, kind in types.items() if name != row}
    literal = orjson.dumps(fields).decode().replace("'", "''")
    return (
        f"SELECT s.*, {row} FROM (SELECT from_json_strict(j, '{literal}') AS s, {row} "  # noqa: S608 - a literal made here
        f"FROM (SELECT unnest($texts::VARCHAR[]) AS j, unnest(range($count)) AS {row}))"
    )
