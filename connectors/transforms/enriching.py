"""`enrich`: add fields of a reference table, found by a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import anyio.to_thread
from pydantic import BaseModel, BeforeValidator, Field, model_validator

from connectors.expressions import as_mappings
from connectors.expressions.failures import EvaluationError
from connectors.expressions.operators import text_of
from connectors.json_lines import parse_json
from connectors.transforms.expected import ExpectedFields
from engine.contract.batch import Batch, Drop
from engine.contract.component import Kind, Locality, Params, Transform, component
from engine.contract.params import LocalPath
from engine.errors import FatalError, RecordError

NO_MATCH: Final = Drop("no match")

_CSV: Final = "read_csv(?, header = true)"
_CSV_WITH_TYPES: Final = "read_csv(?, header = true, types = ?)"
# unparsed: DuckDB's own values have 64-bit numbers and other texts for times
_LINES: Final = "read_json_objects(?, format = 'newline_delimited')"
_READERS: Final[Mapping[str, str]] = {
    ".csv": _CSV,
    ".tsv": _CSV,
    ".jsonl": _LINES,
    ".ndjson": _LINES,
    ".json": "read_json_objects(?)",
    ".parquet": "read_parquet(?)",
}
_DATABASES: Final = (".duckdb", ".db")

Key = tuple[str, ...]


def _as_mapping(value: Any) -> Any:
    """Expand a field, or a list of fields, to a mapping to columns of the same names."""
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return {name: name for name in names}
    return value


Columns = Annotated[dict[str, str], BeforeValidator(_as_mapping)]
_SCHEMA: Final[dict[str, Any]] = {"anyOf": [{"type": kind} for kind in ("string", "array", "object")]}


class EnrichParams(Params):
    """Parameters of `enrich`."""

    file: LocalPath = Field(
        min_length=1,
        description="The reference table: a file (.csv, .tsv, .json, .jsonl, .parquet), or a DuckDB database "
        "(.duckdb, .db) with `table`",
    )
    table: str | None = Field(default=None, min_length=1, description="With a database: the table or view")
    key: Columns = Field(
        min_length=1,
        json_schema_extra=_SCHEMA,
        description="Key of both: a field, a list of fields, or {field of record: column of table}",
    )
    fields: Columns | None = Field(
        default=None,
        json_schema_extra=_SCHEMA,
        description="What to add: columns, or {column: name of the new field} (default: every column "
        "but the key)",
    )
    prefix: str = Field(default="", max_length=64, description="Prefix for the names of added fields")
    missing: Literal["keep", "drop", "dead_letter"] = Field(
        default="keep",
        description="A record without a match: keep it with nulls, drop it, or make it a dead letter",
    )
    duplicates: Literal["fail", "first"] = Field(
        default="fail", description="Several rows of the table with one key: fail the run, or use the first"
    )
    max_rows: int = Field(
        default=1_000_000,
        ge=1,
        le=100_000_000,
        description="A larger table fails the run: it is held in memory",
    )

    @model_validator(mode="after")
    def _readable(self) -> Self:
        suffix = Path(self.file).suffix.lower()
        if suffix in _DATABASES and self.table is None:
            raise ValueError("a database needs `table`, the table that is read")
        if suffix not in _DATABASES and self.table is not None:
            raise ValueError(f"`table` is for databases ({', '.join(_DATABASES)})")
        if suffix not in _DATABASES and suffix not in _READERS:
            known = ", ".join([*_READERS, *_DATABASES])
            raise ValueError(f"cannot tell what {self.file} holds by its name: use one of {known}")
        return self

    def contents(self) -> dict[str, str]:
        """Return the size and time of the file, which may be too large to read for this."""
        try:
            found = Path(self.file).stat()
        except OSError:  # it may be made before the run
            return {}
        return {"file": f"{found.st_size} {found.st_mtime_ns}"}


@component(Kind.TRANSFORM, "enrich", params=EnrichParams, extra="tables", locality=Locality.MACHINE)
class Enrich(Transform[EnrichParams]):
    """Adds fields of a reference table, found by a key.

    The table is read once, when the run starts, and held in memory. Keys are compared as text, so 7 and "7"
    match; a null or missing key matches nothing. Added fields replace those of the same name: use `prefix` or
    `fields` to keep both. Records keep their keys, and are never multiplied.
    """

    def __init__(self, params: EnrichParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._expected = ExpectedFields((name,) for name in params.key)
        self._rows: dict[Key, dict[str, Any]] = {}
        self._empty: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        self._rows, self._empty = await anyio.to_thread.run_sync(partial(_load, self.params))
        return self

    @property
    def keeps_ids(self) -> bool:
        """Whether ids never change: true if no field `id` is added."""
        given = self.params.fields
        return given is not None and all(self.params.prefix + name != "id" for name in given.values())

    def apply(self, batch: Batch) -> Batch:
        """Add the fields of the matching rows."""
        names = list(self.params.key)
        records = as_mappings(batch.records)
        self._expected.look(records, self.ctx)
        outcomes = [self._outcome(record, names) for record in records]
        return batch.outcomes(outcomes)

    def _outcome(self, record: Mapping[str, Any], names: Sequence[str]) -> Any:
        try:
            values = [record.get(name) for name in names]
            key = () if None in values else tuple([text_of(value) for value in values])
        except EvaluationError:
            return RecordError("the key is a list or a mapping", kind="EnrichError", unplanned=True)
        found = self._rows.get(key)
        if found is not None:
            return {**record, **found}
        if self.params.missing == "keep":
            return {**record, **self._empty}
        if self.params.missing == "drop":
            return NO_MATCH
        return RecordError("no row of the table has the key of the record", kind="NoMatch")


def _load(params: EnrichParams) -> tuple[dict[Key, dict[str, Any]], dict[str, Any]]:
    """Load the added fields by key, and those for records without a match."""
    import duckdb

    try:
        names, rows = _read(params)
    except duckdb.Error as error:
        reason = str(error).strip().splitlines()[0]
        raise FatalError(f"the table {params.file} cannot be read: {reason}") from None
    added = params.fields
    if added is None:
        added = {name: name for name in names if name not in params.key.values()}
    unknown = [name for name in (*params.key.values(), *added) if name not in names]
    if unknown:
        raise FatalError(f"the table {params.file} has no column `{unknown[0]}`: it has {', '.join(names)}")
    if len(rows) > params.max_rows:
        raise FatalError(f"the table {params.file} has more than {params.max_rows:,} rows: raise `max_rows`")
    named = [(column, params.prefix + name) for column, name in added.items()]
    table: dict[Key, dict[str, Any]] = {}
    for text in rows:
        row = parse_json(text)
        values = [row.get(column) for column in params.key.values()]
        if None in values:
            continue
        key = tuple([text_of(value) for value in values])
        if key not in table:
            table[key] = {name: row.get(column) for column, name in named}
        elif params.duplicates == "fail":
            message = f"the table {params.file} has several rows with one key: make the key unique"
            raise FatalError(f"{message}, or set `duplicates: first`")
    return table, {name: None for _, name in named}


def _read(params: EnrichParams) -> tuple[list[str], list[str]]:
    """Read the column names, and each row as JSON; at most one row more than allowed."""
    import duckdb

    suffix = Path(params.file).suffix.lower()
    settings: dict[str, Any] = {"autoinstall_known_extensions": False, "threads": 1}
    if not Path(params.file).is_file():
        raise FatalError(f"the table {params.file} does not exist")
    if suffix in _DATABASES:
        name = ".".join('"' + part.replace('"', '""') + '"' for part in str(params.table).split("."))
        with duckdb.connect(params.file, read_only=True, config=settings) as connection:
            return _rows(connection, name, [], params.max_rows)
    with duckdb.connect(":memory:", config=settings) as connection:
        reader = _READERS[suffix]
        if "json" in suffix:
            return _objects(connection, reader, params)
        values: list[Any] = [params.file]
        if reader is _CSV:
            # unparsed: numbers and dates would get another text than in records
            names = _columns(connection, reader, values)
            if all(name in names for name in params.key.values()):
                reader = _CSV_WITH_TYPES
                values.append(dict.fromkeys(params.key.values(), "VARCHAR"))
        return _rows(connection, reader, values, params.max_rows)


def _objects(connection: Any, relation: str, params: EnrichParams) -> tuple[list[str], list[str]]:
    query = f"SELECT json FROM {relation} LIMIT {params.max_rows + 1}"  # noqa: S608 - one of ours
    rows = [text for (text,) in connection.execute(query, [params.file]).fetchall()]
    names: dict[str, None] = {}
    if not rows:
        raise FatalError(f"the table {params.file} has no rows")
    for number, text in enumerate(rows, 1):
        try:
            row = parse_json(text)
        except ValueError as error:
            reason = str(error).partition(":")[0]
            raise FatalError(f"the table {params.file} cannot be read: row {number}: {reason}") from None
        if not isinstance(row, dict):
            raise FatalError(f"the table {params.file}: row {number} is not a mapping of columns")
        names.update(dict.fromkeys(row))
    return list(names), rows


def _columns(connection: Any, relation: str, values: list[Any]) -> list[str]:
    described = connection.execute(f"DESCRIBE SELECT * FROM {relation}", values).fetchall()  # noqa: S608 - one of ours
    return [row[0] for row in described]


def _rows(connection: Any, relation: str, values: list[Any], most: int) -> tuple[list[str], list[str]]:
    names = _columns(connection, relation, values)
    query = f"SELECT to_json(q) FROM (SELECT * FROM {relation} LIMIT {most + 1}) q"  # noqa: S608 - as above
    return names, [text for (text,) in connection.execute(query, values).fetchall()]
