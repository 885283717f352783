"""The tables of the stores as an ordered list of migrations, and the migration of a SQLite file.

`PRAGMA user_version` is the number of migrations applied to a file; `PRAGMA application_id` marks the file as
ours. Never edit a released migration: append a new one.

Only features of SQLite 3.24 (upsert) and earlier are used, so that every supported Python's library is new
enough. The PostgreSQL store uses the same migrations with other names for a few types: these names follow a
single space, and `seq` is the generated number.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Final

from engine.errors import StateCorruptError, StateVersionError

APPLICATION_ID: Final = 0x6F64_7765  # "odwe" in ASCII; at offset 68 of the file, where file(1) looks for it

# Manifests never change and may be large, so a split's progress has a separate row: a commit rewrites a few
# dozen bytes, not the manifest. Dead letters have no foreign key to `runs`, because an undelivered record
# outlives the record of its run.
_LEDGER: Final = """
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    pipeline TEXT NOT NULL,
    group_id TEXT NOT NULL,
    identity TEXT NOT NULL,
    identity_doc TEXT NOT NULL,
    operational_doc TEXT NOT NULL,
    params TEXT NOT NULL,
    seed TEXT NOT NULL,
    started_at TEXT NOT NULL,
    status TEXT NOT NULL,
    ended_at TEXT NOT NULL,
    error TEXT NOT NULL,
    attempt INTEGER NOT NULL
);
CREATE TABLE sources (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    node TEXT NOT NULL,
    complete INTEGER NOT NULL,
    PRIMARY KEY (run_id, node)
) WITHOUT ROWID;
CREATE TABLE splits (
    seq INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    node TEXT NOT NULL,
    split_key TEXT NOT NULL,
    manifest TEXT NOT NULL,
    first_ordinal INTEGER NOT NULL,
    UNIQUE (run_id, node, split_key)
);
CREATE TABLE progress (
    split INTEGER PRIMARY KEY REFERENCES splits (seq) ON DELETE CASCADE,
    position TEXT NOT NULL,
    done INTEGER NOT NULL,
    read INTEGER NOT NULL,
    forked INTEGER NOT NULL,
    written INTEGER NOT NULL,
    accepted INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    dead INTEGER NOT NULL,
    tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    drops TEXT NOT NULL
);
CREATE TABLE acks (
    split INTEGER NOT NULL REFERENCES splits (seq) ON DELETE CASCADE,
    start_position TEXT NOT NULL,
    end_position TEXT NOT NULL,
    tally TEXT NOT NULL,
    PRIMARY KEY (split, start_position)
) WITHOUT ROWID;
CREATE TABLE leases (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    chunk TEXT NOT NULL DEFAULT '',
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    expires_at TEXT NOT NULL,
    PRIMARY KEY (run_id, chunk)
) WITHOUT ROWID;
CREATE TABLE bookmarks (
    pipeline TEXT NOT NULL,
    node TEXT NOT NULL,
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (pipeline, node, scope, key)
) WITHOUT ROWID;
CREATE TABLE journal (
    key TEXT NOT NULL,
    slot TEXT NOT NULL,
    answer TEXT NOT NULL,
    model TEXT NOT NULL,
    tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    created_at TEXT NOT NULL,
    PRIMARY KEY (key, slot)
);
CREATE TABLE dead_letters (
    seq INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    node TEXT NOT NULL,
    key TEXT NOT NULL,
    stage TEXT NOT NULL,
    error_type TEXT NOT NULL,
    error_message TEXT NOT NULL,
    record TEXT NOT NULL,
    reference TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    first_failed_at TEXT NOT NULL,
    last_failed_at TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'replayed', 'discarded')),
    UNIQUE (run_id, node, key)
);
CREATE INDEX dead_letters_in_order ON dead_letters (first_failed_at, seq);
"""

# No earlier version wrote to the journal, so there is nothing to migrate. An entry has one key and its payer,
# since a budget counts what its run has paid over all attempts.
_JOURNAL: Final = """
DROP TABLE journal;
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    node TEXT NOT NULL,
    model TEXT NOT NULL,
    outcome TEXT NOT NULL,
    this_run_only INTEGER NOT NULL,
    tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    created_at TEXT NOT NULL,
    answer TEXT NOT NULL
);
CREATE INDEX journal_of_a_run ON journal (run_id, node);
"""

_PAYING_RECORD: Final = "ALTER TABLE journal ADD COLUMN record TEXT NOT NULL DEFAULT ''"

_CHUNKS: Final = "ALTER TABLE leases ADD COLUMN taken INTEGER NOT NULL DEFAULT 1"

_BOOKMARKED_BY: Final = "ALTER TABLE bookmarks ADD COLUMN run_id TEXT NOT NULL DEFAULT ''"

# NULL: counted by a version that did not record the node.
_BY_NODE: Final = """
ALTER TABLE progress ADD COLUMN taken TEXT;
ALTER TABLE progress ADD COLUMN deaths TEXT;
"""

# A chunk starts by looking up its own splits and dead letters among possibly millions.
_BY_CHUNK: Final = """
CREATE INDEX splits_in_order ON splits (run_id, node, seq);
ALTER TABLE dead_letters ADD COLUMN chunk TEXT NOT NULL DEFAULT '';
CREATE INDEX dead_letters_of_a_chunk ON dead_letters (run_id, chunk);
"""

# 0: not divided yet.
_DIVISION: Final = "ALTER TABLE sources ADD COLUMN chunk_splits INTEGER NOT NULL DEFAULT 0"

# Columns are named like the fields that they hold; the JSON of stored acks has the names too.
_FIELD_TERMS: Final = """
ALTER TABLE progress RENAME COLUMN taken TO delivered;
ALTER TABLE leases RENAME COLUMN taken TO acquisitions;
UPDATE acks SET tally = replace(replace(tally, '"taken": {', '"delivered": {'), '"taken":{', '"delivered":{');
"""

# A new status (`recovered`: delivered later), and the reason for discarding. SQLite cannot change a CHECK.
_CLOSED_LETTERS: Final = """
ALTER TABLE dead_letters RENAME TO dead_letters_before;
DROP INDEX dead_letters_in_order;
DROP INDEX dead_letters_of_a_chunk;
CREATE TABLE dead_letters (
    seq INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    node TEXT NOT NULL,
    key TEXT NOT NULL,
    stage TEXT NOT NULL,
    error_type TEXT NOT NULL,
    error_message TEXT NOT NULL,
    record TEXT NOT NULL,
    reference TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    first_failed_at TEXT NOT NULL,
    last_failed_at TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'replayed', 'recovered', 'discarded')),
    chunk TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    UNIQUE (run_id, node, key)
);
INSERT INTO dead_letters (run_id, pipeline, node, key, stage, error_type, error_message, record, reference,
    attempts, first_failed_at, last_failed_at, status, chunk)
SELECT run_id, pipeline, node, key, stage, error_type, error_message, record, reference, attempts,
    first_failed_at, last_failed_at, status, chunk FROM dead_letters_before ORDER BY seq;
DROP TABLE dead_letters_before;
CREATE INDEX dead_letters_in_order ON dead_letters (first_failed_at, seq);
CREATE INDEX dead_letters_of_a_chunk ON dead_letters (run_id, chunk);
CREATE INDEX dead_letters_of_a_pipeline ON dead_letters (pipeline, status);
"""

# Amounts taken from limits that processes share: quotas of endpoints, and budgets in USD. Times are seconds
# since 1970.
_ALLOWANCES: Final = """
CREATE TABLE allowances (
    name TEXT NOT NULL PRIMARY KEY,
    taken REAL NOT NULL,
    drawn_at REAL NOT NULL
) WITHOUT ROWID;
"""

# Pages of the latest runs, and the causes of open dead letters, are queried often.
_FOR_PAGES: Final = """
CREATE INDEX runs_in_order ON runs (started_at, seq);
CREATE INDEX runs_of_a_pipeline ON runs (pipeline, started_at, seq);
CREATE INDEX dead_letters_by_cause ON dead_letters (status, pipeline, error_type);
"""

_TRACES: Final = """
ALTER TABLE journal ADD COLUMN prompt TEXT NOT NULL DEFAULT '';
ALTER TABLE journal ADD COLUMN reply TEXT NOT NULL DEFAULT '';
"""

# To find the calls of one record. Truncated, because an index row in PostgreSQL is limited to 2,704 bytes.
_CALLS_OF_A_RECORD: Final = """
CREATE INDEX journal_of_a_record ON journal (substr(record, 1, 500));
"""

# Maximum of records of a split that may have been read; NULL from older versions: any number.
_READ_LIMIT: Final = """
ALTER TABLE progress ADD COLUMN read_limit INTEGER;
INSERT INTO progress (split, position, done, read, forked, written, accepted, dropped, dead, tokens_in,
    tokens_out, cost_usd, drops)
SELECT seq, 'null', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '{}' FROM splits
    WHERE NOT EXISTS (SELECT 1 FROM progress WHERE progress.split = splits.seq);
"""

# Results of runs that `notify` has to post, stored with the run's end and deleted once they are accepted.
_NOTIFICATIONS: Final = """
CREATE TABLE notifications (
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    pipeline TEXT NOT NULL,
    message TEXT NOT NULL,
    ended_at TEXT NOT NULL,
    PRIMARY KEY (run_id, attempt)
) WITHOUT ROWID;
"""

# What has to start after a run, stored with the run's end and deleted by the transaction that starts it, or
# that resumes the run: each run that a pipeline follows has a row.
_FOLLOWERS: Final = """
CREATE TABLE followers (
    group_id TEXT NOT NULL,
    pipeline TEXT NOT NULL,
    run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    PRIMARY KEY (group_id, pipeline, run_id)
) WITHOUT ROWID;
CREATE INDEX followers_of_a_run ON followers (run_id);
"""

# To find an interrupted replay of the same dead letters.
_RUNS_BY_IDENTITY: Final = """
CREATE INDEX runs_by_identity ON runs (identity, status);
"""

MIGRATIONS: Final[tuple[str, ...]] = (
    _LEDGER,
    _JOURNAL,
    _PAYING_RECORD,
    _CHUNKS,
    _BOOKMARKED_BY,
    _BY_NODE,
    _BY_CHUNK,
    _DIVISION,
    _FIELD_TERMS,
    _CLOSED_LETTERS,
    _ALLOWANCES,
    _TRACES,
    _FOR_PAGES,
    _CALLS_OF_A_RECORD,
    _READ_LIMIT,
    _NOTIFICATIONS,
    _FOLLOWERS,
    _RUNS_BY_IDENTITY,
)

SCHEMA_VERSION: Final = len(MIGRATIONS)

TABLES: Final = frozenset(re.findall(r"CREATE TABLE (\w+)", "".join(MIGRATIONS)))


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Migrate a file to `SCHEMA_VERSION`, or reject it unchanged. Call inside a write transaction.

    Raises:
        StateCorruptError: the file is another program's, or tables are missing.
        StateVersionError: a newer engine wrote it.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    owner: int = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    fresh = not (version or owner or tables)
    if not fresh and owner != APPLICATION_ID:
        raise StateCorruptError(
            f"{path} is a database of another program (application id {owner:#010x}, not "
            f"{APPLICATION_ID:#010x}) and was left unchanged. Choose another directory with --state-dir"
        )
    if version > SCHEMA_VERSION:
        raise StateVersionError(
            f"{path} was written by a newer engine: it has schema version {version}, but this engine "
            f"supports versions up to {SCHEMA_VERSION}. Upgrade odw-engine, or choose another directory "
            "with --state-dir"
        )
    if version == SCHEMA_VERSION and (missing := TABLES - tables):
        raise StateCorruptError(
            f"{path} lacks the tables {', '.join(sorted(missing))}. Restore the state directory from a "
            "backup, or move it away to start over; the engine does not start over by itself"
        )
    for migration in MIGRATIONS[version:]:
        for statement in statements(migration):
            connection.execute(statement)
    # written even when nothing changes: on a read-only file BEGIN IMMEDIATE succeeds, and only a write shows,
    # before any work, that writing is impossible
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def statements(script: str) -> list[str]:
    """Split a script into statements, because `executescript` would commit the transaction around it."""
    return [statement for statement in script.split(";") if statement.strip()]
