"""The service's own tables: idempotency keys, dirty marks, epochs, replaced rows, dead letters.

DDL runs only when the file is opened: mixed with loading it has caused write-ahead-log problems in DuckDB.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from engine.errors import StateVersionError
from engine.service.migration import create_or_migrate
from engine.service.models import UNKNOWN_ORIGIN
from engine.service.submission import AuditEntry, Delivery, Receipt, RejectedRecord, RequestKey, Submission
from engine.service.tables import Table, number_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

VERSION = 6

_DDL = (
    "CREATE TABLE IF NOT EXISTS _odw_meta (version INTEGER, accounts_since TIMESTAMP)",
    "CREATE TABLE IF NOT EXISTS _odw_tables (table_name VARCHAR, dirty BOOLEAN)",
    """CREATE TABLE IF NOT EXISTS _odw_batches
    (key VARCHAR, model VARCHAR, written BIGINT, dead VARCHAR, committed_at TIMESTAMP, sequence BIGINT,
    scope VARCHAR, body_hash VARCHAR, epoch BIGINT)""",
    """CREATE TABLE IF NOT EXISTS _odw_epochs
    (table_name VARCHAR, scope VARCHAR, epoch BIGINT, raised_at TIMESTAMP)""",
    """CREATE TABLE IF NOT EXISTS _odw_replaced
    (table_name VARCHAR, scope VARCHAR, by_scope VARCHAR, row_count BIGINT, replaced_at TIMESTAMP)""",
    """CREATE TABLE IF NOT EXISTS _odw_dead_letters
    (dead_letter_id VARCHAR, model VARCHAR, table_name VARCHAR, record_id VARCHAR, original_record VARCHAR,
    error_type VARCHAR, error_message VARCHAR, failed_at TIMESTAMP, source VARCHAR, status VARCHAR,
    commit_sequence BIGINT, batch_index BIGINT, reason VARCHAR,
    pipeline VARCHAR, run VARCHAR, node VARCHAR, key VARCHAR, closed_at TIMESTAMP, record_key VARCHAR)""",
    "CREATE TABLE IF NOT EXISTS _odw_removed_letters (dead_letter_id VARCHAR, removed_at TIMESTAMP)",
    "CREATE TABLE IF NOT EXISTS _odw_times (sequence BIGINT, noted_at TIMESTAMP)",
    """CREATE TABLE IF NOT EXISTS _odw_audit
    (happened_at TIMESTAMP, actor VARCHAR, action VARCHAR, subject VARCHAR, detail VARCHAR)""",
)

_FROM_VERSION = {
    1: (
        "ALTER TABLE _odw_meta ADD COLUMN accounts_since TIMESTAMP",
        "ALTER TABLE _odw_batches ADD COLUMN sequence BIGINT",
        "ALTER TABLE _odw_batches ADD COLUMN scope VARCHAR",
        "UPDATE _odw_meta SET accounts_since = now() AT TIME ZONE 'UTC'",
    ),
    2: (
        "ALTER TABLE _odw_batches ADD COLUMN body_hash VARCHAR",
        "ALTER TABLE _odw_dead_letters ADD COLUMN reason VARCHAR",
    ),
    3: (
        *(
            f"ALTER TABLE _odw_dead_letters ADD COLUMN {name} VARCHAR"
            for name in ("pipeline", "run", "node", "key")
        ),
        "ALTER TABLE _odw_dead_letters ADD COLUMN closed_at TIMESTAMP",
        "UPDATE _odw_dead_letters SET closed_at = now() AT TIME ZONE 'UTC' WHERE status <> 'open'",
        # the format in which pipelines forwarded dead letters before these columns existed
        """UPDATE _odw_dead_letters SET pipeline = error ->> '$.pipeline', node = error ->> '$.node',
        key = error ->> '$.key'
        FROM (SELECT id, CASE WHEN json_valid(body) THEN json_extract(body, '$.error') END AS error
            FROM (SELECT dead_letter_id AS id, CASE WHEN json_valid(original_record)
                THEN original_record ->> '$.extracted_data' END AS body
                FROM _odw_dead_letters WHERE starts_with(record_id, 'dlq_')))
        WHERE dead_letter_id = id AND json_type(error) = 'OBJECT'""",
        # from the known requests, to within an hour
        """INSERT INTO _odw_times SELECT max(sequence) + 1, max(committed_at) FROM _odw_batches
        WHERE sequence IS NOT NULL GROUP BY date_trunc('hour', committed_at)""",
    ),
    4: ("ALTER TABLE _odw_batches ADD COLUMN epoch BIGINT",),
    5: ("ALTER TABLE _odw_dead_letters ADD COLUMN record_key VARCHAR",),
}


def create_tables(connection: DuckDBPyConnection, tables: Iterable[Table]) -> None:
    """Create what is missing, in one transaction. Raises StateVersionError, StateError."""
    connection.begin()
    for statement in _DDL:
        connection.execute(statement)
    version = _bring_up_to_date(connection)
    known = dict(connection.execute("SELECT lower(table_name), table_name FROM _odw_tables").fetchall())
    added: list[str] = []
    for table in tables:
        spelled = known.get(table.name.lower())
        create_or_migrate(connection, table, version, is_known=spelled is not None)
        if spelled is not None:
            _respell_letters(connection, table)
        if spelled is None:
            added.append(table.name)
        elif spelled != table.name:  # SQL ignores case in names, so the spelling may have changed
            connection.execute(
                "UPDATE _odw_tables SET table_name = ? WHERE lower(table_name) = lower(?)",
                [table.name, table.name],
            )
    if added:
        connection.execute("INSERT INTO _odw_tables SELECT unnest(?::VARCHAR[]), false", [added])
    connection.commit()


def _respell_letters(connection: DuckDBPyConnection, table: Table) -> None:
    """Set `record_key` of open dead letters as the type of the key is now."""
    found = connection.execute(
        "SELECT DISTINCT record_id, record_key FROM _odw_dead_letters "
        "WHERE status = 'open' AND table_name = ? AND record_id IS NOT NULL",
        [table.name],
    ).fetchall()
    changed = [(sent, key) for sent, known in found if (key := _key_of(table, sent)) != known]
    if changed:
        connection.execute(
            "UPDATE _odw_dead_letters SET record_key = new "
            "FROM (SELECT unnest(?::VARCHAR[]) AS sent, unnest(?::VARCHAR[]) AS new) "
            "WHERE status = 'open' AND table_name = ? AND record_id = sent",
            [*map(list, zip(*changed, strict=True)), table.name],
        )


def _key_of(table: Table | None, sent: str | None) -> str | None:
    """Return the text of the stored id that a sent one means."""
    return sent if sent is None or table is None else table.spelled(sent)


def _bring_up_to_date(connection: DuckDBPyConnection) -> int:
    """Upgrade the file to the current format, and return its previous one. Raises StateVersionError."""
    found = connection.execute("SELECT max(version) FROM _odw_meta").fetchone()
    version = found[0] if found else None
    if version is None:
        connection.execute("INSERT INTO _odw_meta VALUES (?, NULL)", [VERSION])
        return VERSION
    if version > VERSION:
        raise StateVersionError(
            f"the warehouse was written by a newer engine (format {version}, this one supports {VERSION})"
        )
    for step in range(version, VERSION):
        for statement in _FROM_VERSION[step]:
            connection.execute(statement)
    if version < VERSION:
        connection.execute("UPDATE _odw_meta SET version = ?", [VERSION])
    return int(version)


MAX_KNOWN_KEYS = 250_000
"""Maximum idempotency keys hashed in memory, at about 80 bytes each; beyond it the table is queried."""


class BatchLedger:
    """Committed idempotency keys and their answers. Used inside the writer's transaction."""

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self._connection = connection
        # includes all keys in the table; a query of the table costs as much as appending 500 rows
        some_keys = "SELECT model, key FROM _odw_batches LIMIT ?"
        found = connection.execute(some_keys, [MAX_KNOWN_KEYS + 1]).fetchall()
        self._hashes = set(map(hash, found)) if len(found) <= MAX_KNOWN_KEYS else None

    def find(self, submissions: Sequence[Submission]) -> dict[RequestKey, tuple[Receipt, str | None]]:
        """Return the receipts of known keys, each with the hash of its body."""
        hashes = self._hashes
        keys = [one.key for one in submissions if hashes is None or hash(one.request_key) in hashes]
        if not keys:
            return {}
        found = self._connection.execute(
            "SELECT model, key, written, dead, body_hash FROM _odw_batches "
            "WHERE key IN (SELECT unnest(?::VARCHAR[]))",
            [keys],
        ).fetchall()
        return {
            (model, key): (Receipt(written, tuple(orjson.loads(dead))), body_hash)
            for model, key, written, dead, body_hash in found
        }

    def of_scope(self, sequences: Iterable[int], scope: str) -> set[int]:
        """Return the commit sequences whose requests had this scope."""
        found = self._connection.execute(
            "SELECT sequence FROM _odw_batches WHERE scope = ? AND sequence IN (SELECT unnest(?::BIGINT[]))",
            [scope, list(sequences)],
        ).fetchall()
        return {sequence for (sequence,) in found}

    def add(self, entries: Sequence[tuple[Submission, Receipt, int]]) -> None:
        """Store (submission, receipt, sequence) triples; each has a key."""
        now = utc_now()
        marks = ", ".join("(?, ?, ?, ?, ?, ?, ?, ?, ?)" for _ in entries)
        values: list[object] = []
        for one, receipt, sequence in entries:
            dead = orjson.dumps(receipt.dead).decode()
            epoch = one.epoch.number if one.epoch is not None else None
            values += (one.key, one.model, receipt.written, dead, now, sequence)
            values += (one.scope, one.body_hash, epoch)
        self._remember(one for one, _, _ in entries)
        self._connection.execute(f"INSERT INTO _odw_batches VALUES {marks}", values)  # noqa: S608 -- marks only

    def _remember(self, submissions: Iterable[Submission]) -> None:
        """Called before the commit; if that fails, a later request costs a needless query."""
        if self._hashes is not None:
            self._hashes.update(hash(one.request_key) for one in submissions)
            if len(self._hashes) > MAX_KNOWN_KEYS:
                self._hashes = None

    def forget(self, days: int) -> None:
        """Drop keys older than this many days."""
        oldest = utc_now() - timedelta(days=days)
        self._connection.execute("DELETE FROM _odw_batches WHERE committed_at < ?", [oldest])
        self._connection.execute("DELETE FROM _odw_replaced WHERE replaced_at < ?", [oldest])
        self._connection.execute("DELETE FROM _odw_removed_letters WHERE removed_at < ?", [oldest])


def utc_now() -> datetime:
    """Return the time as the tables store it: UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


Place = tuple[str, str]
"""Table and scope."""


class Terms(NamedTuple):
    """How a submission is committed.

    `overtaken_at`: rows of a later sequence are kept; None for a submission that is not late.
    """

    delivery: Delivery
    overtaken_at: int | None = None


class EpochStore:
    """The highest epoch of each table and scope. Used inside the writer's transaction.

    A scope `run/load#7` is part of `run/load`: the part and the whole overtake each other, but parts do not.
    So a resumed whole run and its chunks are ordered, while chunks are independent.
    """

    def __init__(self, connection: DuckDBPyConnection) -> None:
        self._connection = connection
        self._has_parts: bool | None = None  # None until it is known
        self._known: dict[frozenset[str], dict[Place, int]] = {}

    def terms(self, submissions: Sequence[tuple[Submission, int]]) -> list[Terms]:
        """Return how to commit each submission, given with its commit sequence, in this order.

        Epochs raised by these submissions count once the transaction is committed.
        """
        scopes = {one.epoch.scope for one, _ in submissions if one.epoch is not None}
        if not scopes:
            return [Terms(one.delivery) for one, _ in submissions]
        asked = frozenset(scopes | {_whole(scope) for scope in scopes})
        known = self._known.get(asked)
        if known is None:
            known = self._find(asked)
        parts = self._find_parts(scopes)
        highest = dict(known)
        terms: list[Terms] = []
        for place, (one, _) in enumerate(submissions):
            delivery, overtaken_at = one.delivery, None
            if one.epoch is not None and one.table is not None:
                table, (scope, number) = one.table.name, one.epoch
                latest = max(
                    highest.get((table, scope), number),
                    highest.get((table, _whole(scope)), number),
                    parts.get((table, scope), number),
                )
                if number < latest:
                    delivery = "replay" if delivery == "fresh" else delivery
                    overtaken_at = self._overtaken_at(one, submissions[:place])
                highest[table, scope] = max(highest.get((table, scope), number), number)
                if _whole(scope) != scope:
                    whole = table, _whole(scope)
                    parts[whole] = max(parts.get(whole, number), number)
                    self._has_parts = True
            terms.append(Terms(delivery, overtaken_at))
        self._put({place: number for place, number in highest.items() if known.get(place) != number})
        # only this process writes epochs, so they are cached: a query costs more than appending a hundred
        # rows
        self._known = {asked: highest}
        return terms

    def doubt(self) -> None:
        """Drop the cache: the last raised epochs were not committed, or epochs were removed."""
        self._known = {}

    def _overtaken_at(self, late: Submission, before: Sequence[tuple[Submission, int]]) -> int | None:
        """Return the commit sequence after which a late submission's rows may have been delivered again.

        None when that is unknown: requests without an idempotency key are not recorded.
        """
        assert late.epoch is not None
        scope, number = late.epoch
        whole = _whole(scope)
        found = self._connection.execute(
            "SELECT min(sequence) FROM _odw_batches WHERE model = ? AND epoch > ? AND (scope IN (?, ?) "
            "OR (? AND starts_with(scope, ?)))",
            [late.model, number, scope, whole, scope == whole, f"{whole}#"],
        ).fetchall()
        later = [sequence for (sequence,) in found if sequence is not None]
        for one, sequence in before:
            if one.epoch is not None and one.model == late.model and one.epoch.number > number:
                other = one.epoch.scope
                if other in (scope, whole) or (scope == whole and _whole(other) == whole):
                    later.append(sequence)
        return min(later) - 1 if later else None

    def _find(self, scopes: Collection[str]) -> dict[Place, int]:
        found = self._connection.execute(
            "SELECT table_name, scope, epoch FROM _odw_epochs WHERE scope IN (SELECT unnest(?::VARCHAR[]))",
            [list(scopes)],
        ).fetchall()
        return {(table, scope): number for table, scope, number in found}

    def _find_parts(self, scopes: set[str]) -> dict[Place, int]:
        """Return the highest epoch of the parts of each of these scopes."""
        if self._has_parts is None:
            of_parts = "SELECT count(*) FROM _odw_epochs WHERE contains(scope, '#')"
            self._has_parts = number_of(self._connection, of_parts) > 0
        wholes = [scope for scope in scopes if _whole(scope) == scope]
        if not self._has_parts or not wholes:
            return {}
        found = self._connection.execute(
            "SELECT table_name, split_part(scope, '#', 1) AS whole, max(epoch) FROM _odw_epochs"
            " WHERE contains(scope, '#') AND whole IN (SELECT unnest(?::VARCHAR[])) GROUP BY ALL",
            [wholes],
        ).fetchall()
        return {(table, scope): number for table, scope, number in found}

    def _put(self, raised: dict[tuple[str, str], int]) -> None:
        now = utc_now()
        for (table, scope), number in raised.items():  # rarely any, at the start and after a failure
            self._connection.execute(
                "DELETE FROM _odw_epochs WHERE table_name = ? AND scope = ?", [table, scope]
            )
            self._connection.execute(
                "INSERT INTO _odw_epochs VALUES (?, ?, ?, ?)", [table, scope, number, now]
            )

    def forget(self, days: int) -> None:
        """Drop epochs that were raised more than this many days ago."""
        oldest = utc_now() - timedelta(days=days)
        self._connection.execute("DELETE FROM _odw_epochs WHERE raised_at < ?", [oldest])
        self.doubt()


def _whole(scope: str) -> str:
    return scope.partition("#")[0]


def add_audit(connection: DuckDBPyConnection, entries: Sequence[AuditEntry]) -> None:
    """Record user actions. Used inside the writer's transaction."""
    now = utc_now()
    connection.executemany("INSERT INTO _odw_audit VALUES (?, ?, ?, ?, ?)", [(now, *one) for one in entries])


_UNKNOWN = (None, "open", None, None, *UNKNOWN_ORIGIN)


class DeadLetterStore:
    """Dead letters, upserted by id. Used inside the writer's transaction."""

    def __init__(self, connection: DuckDBPyConnection, tables: Mapping[str, Table]) -> None:
        self._connection = connection
        self._tables = tables

    def open_tables(self) -> set[str]:
        """Return the tables with open dead letters."""
        found = self._connection.execute(
            "SELECT DISTINCT table_name FROM _odw_dead_letters "
            "WHERE status = 'open' AND table_name IS NOT NULL"
        ).fetchall()
        return {name for (name,) in found}

    def recover(self, table: Table, rows: Mapping[Any, tuple[Any, ...]]) -> None:
        """Mark open dead letters of these records, by id, as recovered, since later rows are committed."""
        if not rows:
            return
        sent, stored = (table.columns[0].compared.format(text) for text in ("record_key", "id"))
        self._connection.execute(
            "UPDATE _odw_dead_letters SET status = 'recovered', closed_at = ? "  # noqa: S608 -- quoted
            "FROM (SELECT unnest(?::VARCHAR[]) AS id, unnest(?::BIGINT[]) AS sequence) "
            f"WHERE status = 'open' AND table_name = ? AND {sent} = {stored} AND commit_sequence < sequence",
            [utc_now(), list(map(str, rows)), [row[-1] for row in rows.values()], table.name],
        )

    def recover_ids(self, ids: Sequence[str]) -> None:
        """Mark open dead letters, by their own ids, as recovered."""
        self._connection.execute(
            "UPDATE _odw_dead_letters SET status = 'recovered', closed_at = ? "
            "WHERE status = 'open' AND dead_letter_id IN (SELECT lower(unnest(?::VARCHAR[])))",
            [utc_now(), ids],
        )

    def discard(self, ids: Sequence[str], reason: str) -> None:
        """Discard dead letters by their own ids; recovered ones stay recovered."""
        self._connection.execute(
            "UPDATE _odw_dead_letters SET status = 'discarded', reason = ?, closed_at = ? "
            "WHERE status <> 'recovered' AND dead_letter_id IN (SELECT lower(unnest(?::VARCHAR[])))",
            [reason, utc_now(), ids],
        )

    def put(self, letters: Sequence[tuple[RejectedRecord, int]]) -> None:
        """Store dead letters with their commit sequences; the last of an id wins.

        A recovered or discarded dead letter keeps its status when the same record comes again, since a
        redelivery is nothing new. It also keeps its origin if the redelivery has none.
        """
        latest = {letter.dead_letter_id: (letter, number) for letter, number in letters}
        stored = self._connection.execute(
            "SELECT dead_letter_id, original_record, status, reason, closed_at, pipeline, run, node, key "
            "FROM _odw_dead_letters WHERE dead_letter_id IN (SELECT unnest(?::VARCHAR[]))",
            [list(latest)],
        ).fetchall()
        known = {identifier: rest for identifier, *rest in stored}
        self._connection.execute(
            "DELETE FROM _odw_dead_letters WHERE dead_letter_id IN (SELECT unnest(?::VARCHAR[]))",
            [list(latest)],
        )
        rows = []
        for identifier, (letter, number) in latest.items():
            original, status, reason, closed_at, *origin = known.get(identifier, _UNKNOWN)
            if status == "open" or original != letter.original_record:
                status, reason, closed_at = "open", None, None
            rows.append(
                (
                    identifier,
                    letter.model,
                    letter.table,
                    letter.record_id,
                    letter.original_record,
                    letter.error_type,
                    letter.error_message,
                    letter.failed_at.replace(tzinfo=None),
                    letter.source,
                    status,
                    number,
                    letter.index,
                    reason,
                    *(letter.origin if any(letter.origin) else origin),
                    closed_at,
                    _key_of(self._tables.get(letter.table or ""), letter.record_id),
                )
            )
        with self._connection.appender("_odw_dead_letters") as appender:
            appender.append_rows(rows)
