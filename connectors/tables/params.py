"""Parameters of tables, and the order in which rows with equal keys are merged."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, Self

from pydantic import Field, field_validator, model_validator

from connectors.tables.names import TableName, quote_table
from engine.contract.claims import Claim
from engine.contract.component import Context, Params, operational
from engine.errors import FatalError

_SQL_TYPE: Final = re.compile(
    r"[A-Za-z_][\w. ]*(\((?P<inside>.*)\))?( with(out)? time zone)?(\[\d*\])*", re.I | re.S
)
_TEXT: Final = re.compile(r"'[^'\\]*'")
_INSIDE: Final = re.compile(r"[\w. ,=\[\]()-]*")
_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|--[^\n]*|/\*.*?\*/)|(?P<mark>;)"""
    r"""|'(?:[^']|'')*+'|"[^"]*"|`[^`]*`|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|[\w.,()=*]+|.""",
    re.S,
)
_STAGING: Final = "__odw_"


def _is_type(sql: str) -> bool:
    """Whether this is one type, such as `numeric(12, 2)` or `Map(String, Enum8('a' = 1))`."""
    found = _SQL_TYPE.fullmatch(sql)
    inside = _TEXT.sub("", found["inside"] or "") if found else "-"
    depth = 0
    for mark in inside:
        depth += (mark == "(") - (mark == ")")
        if depth < 0:
            return False
    return bool(found and depth == 0 and _INSIDE.fullmatch(inside) and "--" not in inside)


class Mode(StrEnum):
    """What a run does with the table."""

    APPEND = "append"
    MERGE = "merge"
    REPLACE = "replace"


class TableSinkParams(Params):
    """Parameters of the sinks of tables."""

    table: TableName = Field(
        description="Table to write, created if it does not exist: `orders` or `sales.orders`",
    )
    mode: Mode = Field(
        default=Mode.APPEND,
        description="`append`: add rows; `merge`: update the rows with the same `key`, add the others; "
        "`replace`: replace all other rows with the run's once the run is complete",
    )
    key: list[str] = Field(default=[], description="Fields that identify a row; for `mode: merge`")
    columns: dict[str, str] = Field(
        default={},
        description="SQL types of new columns, e.g. `created_at: timestamptz` (default: from the "
        "first records that have the field)",
    )
    evolve: bool = Field(
        default=True,
        description="Add a column for a field that is new, and let integers become floats; false: such "
        "records become dead letters",
    )
    records: int = operational(5000, ge=1, le=100_000, description="Maximum records per transaction")

    @field_validator("key", mode="before", json_schema_input_type=str | list[str])
    @classmethod
    def _one_is_a_list(cls, key: object) -> object:
        return [key] if isinstance(key, str) else key

    @field_validator("columns")
    @classmethod
    def _are_types(cls, columns: dict[str, str]) -> dict[str, str]:
        for name, sql in columns.items():
            if not _is_type(sql):
                raise ValueError(f"{name}: {sql!r} is not an SQL type such as `bigint` or `numeric(12, 2)`")
        return columns

    @model_validator(mode="after")
    def _merges_by_key(self) -> Self:
        if self.mode is Mode.MERGE and not self.key:
            raise ValueError("`mode: merge` needs a `key`: the fields that identify a row")
        if self.mode is not Mode.MERGE and self.key:
            raise ValueError("`key` is for `mode: merge`")
        return self

    def notes(self) -> list[str]:
        """Return notes for `validate`."""
        if self.mode is Mode.REPLACE:
            return [f"replaces all rows of the table {self.table} when the run is complete"]
        return []


def needs_whole_run(params: TableSinkParams) -> bool:
    """Return whether a run cannot be divided: only who has written all rows may replace the others."""
    return params.mode is Mode.REPLACE


def table_claim(
    params: TableSinkParams,
    place: str = "",
    located: Callable[[Mapping[str, Any]], tuple[object, str]] | None = None,
) -> Claim:
    """Return the claim of a sink on a table; `place` or `located` identify it if its name does not."""
    alone = "`mode: replace` deletes the rows of the other" if params.mode is Mode.REPLACE else ""
    remedy = "choose another table, or let one node write all records"
    use = f"writes the table {params.table}"
    return Claim(place or params.table, use, alone, remedy, located=located)


class TableSourceParams(Params):
    """Parameters of the sources of tables."""

    table: TableName | None = Field(default=None, description="Table or view to read")
    query: str | None = Field(default=None, min_length=1, description="Query to read instead of a table")
    key: str | None = Field(
        default=None,
        description="Column that identifies a row: rows come in its order, and a run can be resumed",
    )
    page_records: int = operational(2000, ge=1, le=100_000, description="Maximum records per batch")

    @model_validator(mode="after")
    def _reads_one_thing(self) -> Self:
        if (self.table is None) is (self.query is None):
            raise ValueError("give either a `table` or a `query`")
        if self.query is not None and not _unterminated(self.query):
            raise ValueError("`query` is empty")
        return self

    def notes(self) -> list[str]:
        """Return notes for `validate`."""
        return [] if self.key else ["without a `key`, a run of this source cannot be resumed"]

    @property
    def relation(self) -> str:
        """Return the FROM clause, named `q`."""
        return self.quoted_relation()

    def quoted_relation(self, mark: str = '"') -> str:
        """Return the FROM clause for a database that quotes names by `mark`."""
        if self.table is not None:
            return f"{quote_table(self.table, mark)} AS q"
        # the bracket is on its own line, for a query that ends with a comment
        return f"({_unterminated(self.query or '')}\n) AS q"


def _unterminated(query: str) -> str:
    """Return a query without its last semicolon and the comments after it; "" if it has only comments."""
    end, empty = None, True
    for token in _TOKEN.finditer(query):
        if token["mark"]:
            end = token.start() if end is None else end
        elif not token["blank"]:
            end, empty = None, False
    return "" if empty else query[:end].strip()


def missing_column(name: str, columns: Sequence[str]) -> FatalError:
    """Return the error for a column that the rows do not have."""
    known = ", ".join(columns[:20])
    return FatalError(f"the rows have no column {name!r}; they have {known}", kind="schema")


def unusable_key(key: str | None, why: str) -> FatalError:
    """Return the error for a `key` that does not identify each row."""
    return FatalError(f"the key {key!r} {why}: choose another column", kind="schema")


def staging_name(table: str, ctx: Context) -> str:
    """Return the name of the table that a run with `mode: replace` fills first."""
    digest = sha256(f"{ctx.run_id}\n{ctx.node}".encode()).hexdigest()[:12]
    schema, dot, name = table.rpartition(".")
    return f"{schema}{dot}{_shortened(name)}{_STAGING}{digest}"


def is_staging_of(name: str, table: str) -> bool:
    """Return whether a table is the staging table of any run; both names without schema."""
    return name.startswith(f"{_shortened(table)}{_STAGING}")


def _shortened(name: str) -> str:
    """Return a name that differs from that of other tables, and leaves room in PostgreSQL's 63 bytes."""
    return name if len(name) <= 40 else f"{name[:31]}_{sha256(name.encode()).hexdigest()[:8]}"


def check_staging(table: str, staged: int, added: int) -> None:
    """Check that all of a run's new rows exist before they replace the others.

    Raises:
        FatalError: some are missing: the run was interrupted, and another one has replaced the table since.
    """
    if staged != added:
        raise FatalError(
            f"{staged:,} of the {added:,} rows of this run are still there: another run has replaced the "
            f"table {table} since this one was interrupted, so nothing is replaced; start a new run",
            kind="schema",
        )


def merge_rounds(
    indices: Sequence[int], rows: Sequence[Mapping[str, Any]], key: Sequence[str]
) -> list[list[int]]:
    """Divide rows into rounds, to merge in this order.

    All rows of a round have the same fields, so that a merge changes no others, and distinct keys.
    """
    rounds: list[list[int]] = []
    seen: dict[tuple[str, ...], int] = {}  # the last round with this key
    open_rounds: dict[tuple[str, ...], int] = {}  # the last round with these fields
    for index in indices:
        row = rows[index]
        identity = tuple(str(row.get(field)) for field in key)
        layout = tuple(sorted(row))
        place = open_rounds.get(layout, -1)
        if place <= seen.get(identity, -1):
            place = open_rounds[layout] = len(rounds)
            rounds.append([])
        rounds[place].append(index)
        seen[identity] = place
    return rounds
