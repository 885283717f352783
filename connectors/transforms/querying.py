"""`sql`: change records by a query over each batch, in DuckDB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from connectors.expressions import as_mappings
from connectors.json_lines import parse_line
from connectors.transforms.column_types import ColumnTypes, check_types, structure_of
from connectors.transforms.sql_text import ROW, carrying_row
from engine.contract.batch import Batch, Drop
from engine.contract.component import BatchLimits, Kind, Params, Transform, component
from engine.errors import FatalError, RecordError

__all__ = ["Sql", "SqlParams"]

DROPPED: Final = Drop("not in the result")
MEMORY: Final = "512MB"


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
        default=False, description="Allow several rows for one record; they get keys of their own, `key/0`, …"
    )
    per_batch: bool = Field(
        default=False,
        description="Allow what depends on where batches end: windows, LIMIT, and aggregates in subqueries",
    )
    batch_size: int = Field(default=2_000, ge=1, le=100_000, description="Records of a batch, at most")

    @field_validator("columns")
    @classmethod
    def _known_types(cls, columns: dict[str, str] | None) -> dict[str, str] | None:
        if columns is not None:
            check_types(columns)
        return columns

    @model_validator(mode="after")
    def _a_query_that_keeps_records(self) -> Self:
        with suppress(ModuleNotFoundError):  # the missing extra is the problem, and the engine says so
            carrying_row(self.query, per_batch=self.per_batch)
        return self


@component(Kind.TRANSFORM, "sql", params=SqlParams, extra="tables")
class Sql(Transform[SqlParams]):
    """Changes records by a query over each batch, in DuckDB.

    The batch is the relation `batch`, with a hidden column `_row` that says which record a row belongs to,
    so that keys and acks hold: it is carried through on its own if `batch` is in the FROM clause; a query
    over a subquery must select it itself. Records without a row are dropped. What makes one row of several
    records is refused, because a query sees one batch only. The query reaches no files and no network.
    """

    def __init__(self, params: SqlParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._types = ColumnTypes(params.columns)
        self._query = ""
        self._database: Any = None

    async def __aenter__(self) -> Self:
        import duckdb

        self._query = carrying_row(self.params.query, per_batch=self.params.per_batch)
        self._database = duckdb.connect(
            ":memory:", config={"threads": 1, "memory_limit": MEMORY, "autoinstall_known_extensions": False}
        )
        self._database.execute("SET enable_external_access = false; SET lock_configuration = true")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    @property
    def limits(self) -> BatchLimits:
        """Larger batches than usual: each costs a query."""
        return BatchLimits(records=self.params.batch_size)

    def apply(self, batch: Batch) -> Batch:
        """Query the batch."""
        if not batch.records:
            return batch
        return batch.outcomes(self._outcomes(as_mappings(batch.records)))

    def _outcomes(self, records: Sequence[Mapping[str, Any]]) -> list[Any]:
        try:
            rows = self._rows(records)
        except RecordError as error:
            if len(records) == 1:
                return [error]
            half = len(records) // 2  # down to the record that does not fit
            return [*self._outcomes(records[:half]), *self._outcomes(records[half:])]
        found: list[list[Any]] = [[] for _ in records]
        for row in rows:
            place = row.pop(ROW, None)
            if not isinstance(place, int) or not 0 <= place < len(found):
                message = f"the query has to select `{ROW}`, which says to which record a row belongs"
                raise FatalError(f"{message}: write SELECT {ROW}, …")
            found[place].append(row)
        if self.params.many:
            return [items or DROPPED for items in found]
        if any(len(items) > 1 for items in found):
            raise FatalError("the query gives several rows for one record: set `many: true` if that is meant")
        return [items[0] if items else DROPPED for items in found]

    def _rows(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The rows of the result. Raises RecordError if a value does not fit, FatalError otherwise."""
        import duckdb

        try:
            values = self._types.rows(records, ROW)
        except TypeError:
            message = "a field cannot be written as JSON"
            raise RecordError(message, kind="SqlError", unplanned=True) from None
        types = {**self._types.known, ROW: "BIGINT"}
        try:
            self._database.execute(structure_of(types), [values])
            rows = self._database.execute(f"SELECT to_json(q) FROM ({self._query}) q").fetchall()  # noqa: S608 - the user's own query
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
            # its text quotes the value that does not fit
            kind = type(error).__name__.removesuffix("Exception")
            raise RecordError(
                f"the query fails for this record: {kind}", kind="SqlError", unplanned=True
            ) from None
        return _decoded(",".join([row for (row,) in rows]))


def _decoded(rows: str) -> list[dict[str, Any]]:
    """The rows of JSON text, with integers of any size. Raises RecordError for what is not JSON."""
    try:
        found: list[dict[str, Any]] = parse_line(f'{{"rows":[{rows}]}}'.encode(), "result")["rows"]
    except RecordError:
        message = "the result has a number that JSON cannot say: infinity or NaN"
        raise RecordError(message, kind="SqlError", unplanned=True) from None
    return found


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
