"""`sql`: change records by a query over each batch, in DuckDB."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import lru_cache
from itertools import repeat
from typing import Any, Final, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from connectors.expressions import as_mappings
from connectors.json_lines import parse_line
from connectors.transforms.column_types import ColumnTypes, check_types, relation_of
from connectors.transforms.sql_text import ROW, carrying_row
from engine.contract.batch import Batch, Drop
from engine.contract.component import BatchLimits, Kind, Params, Transform, component
from engine.errors import FatalError, RecordError

DROPPED: Final = Drop("not in the result")
MEMORY: Final = "512MB"
MAX_BYTES: Final = 16 * 1024 * 1024
_ALL_RECORDS: Final = frozenset({dict})


class SqlParams(Params):
    """Parameters of `sql`."""

    query: str = Field(
        min_length=1,
        max_length=100_000,
        description="A SELECT over the relation `batch`, whose columns are the fields of the records",
    )
    columns: dict[str, str] | None = Field(
        default=None,
        description="The fields that the query can see, with their DuckDB types: {amount: DOUBLE, lines: "
        "JSON} (default: every field, with the type of its first value in the run)",
    )
    many: bool = Field(
        default=False, description="Allow several rows for one record; they get the keys `key/0`, …"
    )
    per_batch: bool = Field(
        default=False,
        description="Allow what depends on where batches end: windows, LIMIT, and aggregates in subqueries",
    )
    batch_size: int = Field(
        default=5_000, ge=1, le=100_000, description="Maximum records per batch, of at most 16 MiB"
    )

    @field_validator("columns")
    @classmethod
    def _known_types(cls, columns: dict[str, str] | None) -> dict[str, str] | None:
        if columns is not None:
            check_types(columns)
        return columns

    @model_validator(mode="after")
    def _a_query_that_keeps_records(self) -> Self:
        with suppress(ModuleNotFoundError):  # the engine reports the missing extra
            carrying_row(self.query, per_batch=self.per_batch)
        return self


@component(Kind.TRANSFORM, "sql", params=SqlParams, extra="tables")
class Sql(Transform[SqlParams]):
    """Changes records by a query over each batch, in DuckDB.

    The batch is the relation `batch`, with a hidden column `_row` that assigns rows to records, for keys and
    acks. It is selected automatically if `batch` is in the FROM clause; a query over a subquery must select
    it. Records without a row are dropped. Combining several records into one row is refused, because a query
    sees only one batch. The query has no access to files and network.
    """

    def __init__(self, params: SqlParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._types = ColumnTypes(params.columns)
        self._query = ""
        self._checked: tuple[str, ...] = ()
        self._database: Any = None

    async def open(self, stack: AsyncExitStack) -> None:
        """Open a database in memory."""
        import duckdb

        self._query = carrying_row(self.params.query, per_batch=self.params.per_batch)
        self._database = duckdb.connect(
            ":memory:", config={"threads": 1, "memory_limit": MEMORY, "autoinstall_known_extensions": False}
        )
        self._database.execute("SET enable_external_access = false; SET lock_configuration = true")
        stack.callback(self._database.close)

    @property
    def limits(self) -> BatchLimits:
        """Larger batches than usual, since each costs a query."""
        return BatchLimits(self.params.batch_size, MAX_BYTES)

    def apply(self, batch: Batch) -> Batch:
        """Query the batch."""
        if not batch.records:
            return batch
        outcomes = self._outcomes(as_mappings(batch.records))
        return (
            batch.replace(outcomes)
            if _ALL_RECORDS.issuperset(map(type, outcomes))
            else batch.outcomes(outcomes)
        )

    def _outcomes(self, records: Sequence[Mapping[str, Any]]) -> list[Any]:
        try:
            places, rows = self._rows(records)
        except RecordError as error:
            if len(records) == 1:
                return [error]
            half = len(records) // 2  # halve down to the record that does not fit
            return [*self._outcomes(records[:half]), *self._outcomes(records[half:])]
        if not self.params.many and places == list(range(len(records))):
            return rows
        found: list[list[Any]] = [[] for _ in records]
        for place, row in zip(places, rows, strict=True):
            found[place].append(row)
        if self.params.many:
            return [items or DROPPED for items in found]
        if any(len(items) > 1 for items in found):
            raise FatalError("the query gives several rows for one record: set `many: true` if that is meant")
        return [items[0] if items else DROPPED for items in found]

    def _rows(self, records: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[dict[str, Any]]]:
        """Return the record index of each row of the result, and the rows.

        Raises:
            RecordError: a value does not fit.
            FatalError: the query cannot run.
        """
        try:
            texts = self._types.rows(records, ROW)
        except TypeError:
            message = "a field cannot be written as JSON"
            raise RecordError(message, kind="SqlError", unplanned=True) from None
        batch = relation_of(self._types.known, ROW)
        # one list per column: building rows from them takes half the time of parsing each row
        query = f"WITH batch AS ({batch}) SELECT to_json(list(COLUMNS(*))) FROM ({self._query}) q"  # noqa: S608 - the user's own query
        lists = self._fetched(query, {"texts": texts, "count": len(texts)})
        names = [column[0] for column in self._database.description]
        if self._checked != tuple(names):
            self._check_names(batch, names)
        columns = dict(zip(names, _decoded(lists), strict=True))
        places = columns.pop(ROW, [None])
        if places != list(range(len(records))) and not all(
            isinstance(place, int) and 0 <= place < len(records) for place in places
        ):
            message = f"the query has to select `{ROW}`, which assigns each row to its record"
            raise FatalError(f"{message}: write SELECT {ROW}, …")
        rows = zip(*columns.values(), strict=True) if columns else repeat((), len(places))
        return places, _row_maker(tuple(columns))(rows)

    def _check_names(self, batch: str, names: Sequence[str]) -> None:
        """Refuse duplicate column names: DuckDB would call the second `name_1`, which may be another field.

        Raises:
            FatalError: a name occurs twice.
        """
        self._checked = tuple(names)
        if not any(re.search(r"_\d+$", name) for name in names):
            return
        # as a table, for a query that begins with WITH
        self._database.execute(
            f"CREATE OR REPLACE TEMP TABLE batch AS {batch} LIMIT 0", {"texts": [], "count": 0}
        )
        self._database.execute(self._query)
        given = [column[0].lower() for column in self._database.description]
        for name in given:
            if given.count(name) > 1:
                raise FatalError(
                    f"the query gives two columns the name {name!r}: name one of them otherwise, or leave it "
                    f"out of the star: SELECT * EXCLUDE ({name}), …"
                )

    def _fetched(self, query: str, values: dict[str, Any]) -> Sequence[str | None]:
        import duckdb

        try:
            found: Sequence[str | None] = self._database.execute(query, values).fetchone()
        except (
            duckdb.CatalogException,
            duckdb.BinderException,
            duckdb.ParserException,
            duckdb.PermissionException,
        ) as error:
            raise FatalError(f"the query cannot run: {_first_line(error)}") from None
        except duckdb.OutOfMemoryException:
            raise FatalError(f"the query needs more than {MEMORY} of memory: lower `batch_size`") from None
        except duckdb.Error as error:
            # its text quotes the invalid value
            kind = type(error).__name__.removesuffix("Exception")
            raise RecordError(
                f"the query fails for this record: {kind}", kind="SqlError", unplanned=True
            ) from None
        return found


def _decoded(columns: Sequence[str | None]) -> list[list[Any]]:
    """Decode lists of JSON texts, with integers of any size; an empty list is null.

    Raises:
        RecordError: one is not JSON.
    """
    text = ",".join(column or "[]" for column in columns)
    try:
        found: list[list[Any]] = parse_line(f'{{"columns":[{text}]}}'.encode(), "result")["columns"]
    except RecordError:
        message = "the result has a number that JSON cannot say: infinity or NaN"
        raise RecordError(message, kind="SqlError", unplanned=True) from None
    return found


@lru_cache(maxsize=64)
def _row_maker(names: tuple[str, ...]) -> Callable[[Iterable[tuple[Any, ...]]], list[dict[str, Any]]]:
    """Return a function that turns rows into mappings, in half the time of `dict(zip(…))`."""
    values = "".join(f"v{number}, " for number in range(len(names)))
    fields = ", ".join(f"{name!r}: v{number}" for number, name in enumerate(names))
    code = f"lambda rows: [{{{fields}}} for ({values}) in rows]"
    made: Callable[[Iterable[tuple[Any, ...]]], list[dict[str, Any]]]
    made = eval(code, {"__builtins__": {}})  # noqa: S307 - names are literals in it
    return made


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
