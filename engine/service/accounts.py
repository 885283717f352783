"""Count a client's deliveries in the service, by the scope of their epochs.

Every row has the sequence of the request that brought it, and the batch ledger has the scope of each request
with an idempotency key and an epoch. So the rows of a scope are counted on demand; only replacements have to
be recorded when they happen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import orjson

from engine.service.storage import Reader
from engine.service.system_tables import utc_now
from engine.service.tables import SEQUENCE, Table, number_of, quote

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_OF_SCOPE = "(scope = ? OR starts_with(scope, ? || '/'))"


class ReplacedRows:
    """Rows replaced by newer ones. Used inside the writer's transaction."""

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self._connection = connection

    def add(self, table: str, pairs: Iterable[tuple[int, int | None]], scopes: Mapping[int, str]) -> None:
        """Add pairs of (sequence of the old row, sequence of the new row).

        `scopes` are those of the requests of this transaction, by sequence; others are looked up.
        """
        pairs = list(pairs)
        sequences = {one for pair in pairs for one in pair if one is not None}
        owners = {**self._find(sequences - scopes.keys()), **scopes}
        counts = Counter((owners[gone], owners.get(come or 0)) for gone, come in pairs if gone in owners)
        for (scope, by_scope), count in counts.items():
            self._connection.execute(
                "INSERT INTO _odw_replaced VALUES (?, ?, ?, ?, ?)", [table, scope, by_scope, count, utc_now()]
            )

    def _find(self, sequences: set[int]) -> dict[int, str]:
        if not sequences:
            return {}
        found = self._connection.execute(
            "SELECT sequence, scope FROM _odw_batches WHERE scope IS NOT NULL "
            "AND sequence IN (SELECT unnest(?::BIGINT[]))",
            [list(sequences)],
        ).fetchall()
        return dict(found)

    def add_of_compaction(self, table: Table) -> None:
        """Add the rows that a compaction of the table will remove."""
        key = quote(table.names[0])
        self._connection.execute(
            "INSERT INTO _odw_replaced SELECT ?, gone.scope, come.scope, count(*), ? FROM "  # noqa: S608 -- quoted
            f"(SELECT {SEQUENCE} AS sequence, first_value({SEQUENCE}) OVER latest AS newest, "
            f"row_number() OVER latest AS place FROM {quote(table.name)} "
            f"WINDOW latest AS (PARTITION BY {key} ORDER BY {table.newest_first})) AS rows_by_age "
            "JOIN _odw_batches AS gone ON gone.sequence = rows_by_age.sequence "
            "LEFT JOIN _odw_batches AS come ON come.sequence = rows_by_age.newest "
            "WHERE place > 1 AND gone.scope IS NOT NULL GROUP BY gone.scope, come.scope",
            [table.name, utc_now()],
        )


@dataclass(frozen=True, slots=True)
class Account:
    """The deliveries of a scope to one model.

    Attributes:
        acknowledged: records that were answered as written, including redeliveries.
        present: existing rows that the scope was the last to write.
        replaced: rows of the scope that it replaced itself.
        overtaken: rows of the scope that other scopes replaced, or the retention removed.
        taken: rows of other scopes that the scope replaced. At most this many of the overtaken rows exist
            again.
        doubled: rows of the scope whose id exists more than once.
        dead: dead letters of its records, each counted once.
        letters: how many of these exist, with any status, or were removed by the retention.
        since: earlier deliveries were not counted by scope; None when all are.
    """

    acknowledged: int
    present: int
    replaced: int
    overtaken: int
    taken: int
    doubled: int
    dead: int
    letters: int
    since: datetime | None


def account_of(reader: Reader, model: str, table: Table | None, scope: str) -> Account:
    """Count the rows of a scope and of scopes below it (with the scope and a slash as prefix).

    The table must be clean.
    """
    of_scope: list[object] = [model, scope, scope]
    batches = f"_odw_batches WHERE model = ? AND {_OF_SCOPE}"
    dead = _dead(reader, batches, of_scope)
    present = doubled = 0
    acknowledged = number_of(reader, f"SELECT sum(written) FROM {batches}", *of_scope)  # noqa: S608 -- marks
    if table is None:
        present = acknowledged  # the model stores no rows
    else:
        rows = f"{quote(table.name)} WHERE {SEQUENCE} IN (SELECT sequence FROM {batches})"  # noqa: S608 -- quoted
        present = number_of(reader, f"SELECT count(*) FROM {rows}", *of_scope)  # noqa: S608 -- quoted
        if table.key is not None:
            key = quote(table.key)
            twice = f"SELECT {key} FROM {quote(table.name)} GROUP BY {key} HAVING count(*) > 1"  # noqa: S608 -- quoted
            doubled = number_of(reader, f"SELECT count(*) FROM {rows} AND {key} IN ({twice})", *of_scope)  # noqa: S608 -- quoted
    letters = number_of(
        reader,
        "SELECT count(*) FROM (SELECT dead_letter_id FROM _odw_dead_letters UNION "
        "SELECT dead_letter_id FROM _odw_removed_letters) WHERE dead_letter_id IN "
        "(SELECT unnest(?::VARCHAR[]))",
        list(dead),
    )
    since = reader.execute("SELECT max(accounts_since) FROM _odw_meta").fetchall()[0][0]
    replaced = _replaced(reader, table, scope)
    return Account(acknowledged, present, *replaced, doubled, len(dead), letters, since)


def _dead(reader: Reader, batches: str, values: list[object]) -> set[str]:
    found = reader.execute(f"SELECT dead FROM {batches} AND dead <> '[]'", values).fetchall()  # noqa: S608 -- marks
    return {str(letter["dead_letter_id"]) for (letters,) in found for letter in orjson.loads(letters)}


def _replaced(reader: Reader, table: Table | None, scope: str) -> tuple[int, int, int]:
    """Count rows of the scope replaced by itself and by others, and rows of others replaced by it."""
    if table is None:
        return 0, 0, 0
    by_itself = "coalesce(by_scope = ? OR starts_with(by_scope, ? || '/'), false)"
    found = reader.execute(
        f"SELECT coalesce(sum(row_count) FILTER ({_OF_SCOPE} AND {by_itself}), 0), "  # noqa: S608 -- marks
        f"coalesce(sum(row_count) FILTER ({_OF_SCOPE} AND NOT {by_itself}), 0), "
        f"coalesce(sum(row_count) FILTER (NOT {_OF_SCOPE} AND {by_itself}), 0) "
        "FROM _odw_replaced WHERE table_name = ?",
        [*[scope] * 12, table.name],
    ).fetchone()
    return (int(found[0]), int(found[1]), int(found[2])) if found else (0, 0, 0)
