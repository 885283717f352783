"""Find records that no table can store because of their field names, so that they fail alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connectors.tables.columns import Dialect, Row, by_column, names_of, shown
from engine.errors import RecordError


def unfit(rows: Sequence[Any], key: Sequence[str], dialect: Dialect) -> dict[int, RecordError]:
    """Return the errors of records that cannot be rows of a table, by index.

    Such a record is not a mapping, lacks a value of the `key`, has a value in a field that cannot be a
    column, or values in two fields of the same column.
    """
    failures: dict[int, RecordError] = {}
    places: Sequence[int] = range(len(rows))
    if not set(map(type, rows)) <= {dict}:
        odd = RecordError("the record is not a mapping of fields", kind="NotAnObject")
        failures = {index: odd for index in places if not isinstance(rows[index], Mapping)}
        places = [index for index in places if index not in failures]
    names = names_of(rows[index] for index in places) if failures else names_of(rows)
    failures |= _misnamed(rows, places, names, dialect)
    for name in key:
        error = RecordError(f"no value in the key field {name!r}", kind="MissingKey")
        failures |= dict.fromkeys([index for index in places if rows[index].get(name) is None], error)
    return failures


def _misnamed(
    rows: Sequence[Row], places: Sequence[int], names: Sequence[str], dialect: Dialect
) -> dict[int, RecordError]:
    failures: dict[int, RecordError] = {}
    texts = [name for name in names if isinstance(name, str)]
    if len(texts) < len(names):
        error = _error("a field has a name that is not text")
        failures |= {
            index: error for index in places if not all(isinstance(name, str) for name in rows[index])
        }
    for same in by_column(texts, dialect).values():
        if why := dialect.refusal(same[0]):
            error = _error(f"the field {shown(same[0])} cannot be a column of {dialect.database}: {why}")
            # null needs no column
            failures |= {index: error for index in places if rows[index].get(same[0]) is not None}
        elif len(same) > 1:
            for index in places:
                given = [shown(name) for name in same if rows[index].get(name) is not None]
                if len(given) > 1:
                    both = " and ".join(given[:2])
                    failures[index] = _error(f"the fields {both} are the same column in {dialect.database}")
    return failures


def _error(message: str) -> RecordError:
    return RecordError(f"{message}: rename it before the sink", kind="FieldName")
