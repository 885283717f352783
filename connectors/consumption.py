"""The source `consumption`: rows of the warehouse, over the reading routes of the ingest service."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from itertools import pairwise
from typing import Any, Final, Self

from pydantic import BaseModel, Field, field_validator, model_validator

from connectors.warehouse.client import AnswerTooLargeError, WarehouseClient, open_client
from connectors.warehouse.connection import WarehouseConnection
from connectors.warehouse.rows import MAX_IDS, consumption_api, id_chunks, items_of
from engine.contract.batch import Batch
from engine.contract.component import Context, Kind, Params, Source, component, operational
from engine.contract.keys import KeyList
from engine.contract.split import Split
from engine.contract.types import JsonValue, Record
from engine.errors import FatalError, RecordError

LISTED: Final = 10_000
"""Ids in one page of the listing."""

_MAX_ID_LENGTH = 1024
_RESERVED: Final = frozenset({"after", "fields", "id", "limit", "offset", "order", "without"})
_FIRST_GUESS = 64 * 1024
_ROW_OVERHEAD = 1024
_TOLERANCE = 4  # an answer this many times larger than its target is not read to the end


class ConsumptionParams(Params):
    """Parameters of the `consumption` source."""

    model: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_]*$",
        description="Name of the model whose rows to read: `UnstructuredData`",
    )
    ids: list[str] | None = Field(
        default=None, description="Read only the rows with these ids (default: all rows of the query)"
    )
    filters: dict[str, str | None] = Field(
        default={},
        description="Query parameters of the API, e.g. `source_file_path: memos/`; null omits one",
    )
    without: str | None = Field(
        default=None,
        description="Skip rows whose id exists in this model, e.g. `Medical`: read what is not extracted yet",
    )
    limit: int | None = Field(default=None, ge=1, description="Maximum rows per run")
    api: str | None = Field(
        default=None,
        description="API that returns the rows (default: `getBlobs` for Blob, otherwise `get<Model>`)",
    )
    split_rows: int = operational(
        500, ge=1, le=LISTED, description="Rows per split, the unit of resuming and distribution"
    )
    page_bytes: int = operational(1024 * 1024, ge=1024, description="Target size of a response")
    max_row_bytes: int = operational(64 * 1024 * 1024, ge=1024, description="Larger rows become dead letters")
    timeout: float = operational(60.0, gt=0, description="Timeout of a request, in seconds")

    @field_validator("filters")
    @classmethod
    def _are_filters(cls, filters: dict[str, str | None]) -> dict[str, str | None]:
        if taken := sorted(_RESERVED & filters.keys()):
            raise ValueError(f"{', '.join(taken)} cannot be a filter")
        return filters

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if self.ids is not None and (self.filters or self.without):
            raise ValueError("`ids` excludes `filters` and `without`: give either the ids or a query")
        return self


@component(
    Kind.SOURCE,
    "consumption",
    params=ConsumptionParams,
    connection=WarehouseConnection,
    sandbox="ingest",
    extra="ingest",
)
class ConsumptionSource(Source[ConsumptionParams]):
    """Reads rows from the warehouse: `GET /consumption/get<Model>`, by their ids or by a query.

    A record is the row as the API returns it, with the key `get<Model>/<id>`. With `without: Medical`, only
    rows whose id has no row of that model are read, so the second of two pipelines reads exactly what the
    first has staged, even after failures of either.

    The ids are listed and stored before the first row is read, and a resumed run reads the same ones. The
    listing is ordered by id, so rows that are committed meanwhile cannot hide others. A row that was deleted
    after the listing becomes a dead letter. A service that does not support `order=id` is refused at the
    start.
    """

    reserves = True
    repeatable = True
    parallel_splits = 2  # while the rows of one are being fetched, those of the other are processed

    def __init__(self, params: ConsumptionParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._client: WarehouseClient | None = None

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the HTTP client."""
        if not isinstance(self.connection, WarehouseConnection):
            raise FatalError("the consumption source needs a connection with the `url` of the service")
        self._client = await stack.enter_async_context(
            open_client(
                self.connection,
                concurrency=self.parallel_splits,
                longest=self.params.timeout,
                clock=self.ctx.clock,
            )
        )
        stack.callback(setattr, self, "_client", None)

    async def splits(self, ctx: Context) -> AsyncGenerator[Split, None]:
        """Split the ids into parts of `split_rows`, ordered by id unless `ids` lists them.

        Raises:
            TransientError: the service is not available now; try again.
            FatalError: wrong token, unknown API or filter, or a service that cannot list by id.
        """
        waiting: list[str] = []
        number, size, left = 0, self.params.split_rows, self.params.limit
        async with aclosing(self._listing()) as listing:
            async for page in listing:
                waiting += page if left is None else page[:left]
                left = None if left is None else max(left - len(page), 0)
                while len(waiting) >= size:
                    yield self._split(number, waiting[:size])
                    waiting, number = waiting[size:], number + 1
                if left == 0:
                    break
        if waiting:
            yield self._split(number, waiting)

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Read the rows of a split from index `position`, in order.

        Raises:
            TransientError: the next rows could not be fetched; all rows before them were yielded.
            FatalError: they cannot be read: wrong token, unknown API.
        """
        ids = [str(identity) for identity in split.manifest["ids"]]
        api, start = str(split.manifest["api"]), int(position or 0)
        row_bytes = _FIRST_GUESS
        while start < len(ids) and not ctx.draining():
            count = max(1, min(MAX_IDS, self.params.page_bytes // row_bytes))
            chosen = next(id_chunks(ids[start : start + count], count))
            # the answer and the records made of it are in memory together
            reservation = await ctx.memory_budget.reserve(len(chosen) * (2 * row_bytes + _ROW_OVERHEAD))
            try:
                rows = await self._rows(api, chosen)
            except BaseException:
                reservation.release()
                raise
            if rows is None:
                reservation.release()
                row_bytes = self.params.page_bytes // (len(chosen) // 2)  # try again with half as many
                continue
            batch = _batch(api, chosen, rows, first=split.first_ordinal + start)
            start += len(chosen)
            batch.position, batch.reservation = start, reservation
            reservation.resize(batch.nbytes)
            # adapts at once to larger rows, slowly to smaller ones
            row_bytes = max(batch.nbytes // len(batch), row_bytes * 3 // 4)
            ctx.count("rows", len(chosen))
            yield batch

    async def extract(self) -> AsyncGenerator[Record, None]:
        """Read all rows without a pipeline, opening the connection if needed.

        Raises:
            RecordError: a row that cannot be read; the ones before it were yielded.
            TransientError, FatalError: as `read`. Nothing is retried here.
        """
        async with AsyncExitStack() as stack:
            if self._client is None:
                await stack.enter_async_context(self)
            splits = await stack.enter_async_context(aclosing(self.splits(self.ctx)))
            async for split in splits:
                async with aclosing(self.read(split, None, self.ctx)) as batches:
                    async for batch in batches:
                        if batch.reservation is not None:
                            batch.reservation.release()
                        failures = dict(batch.failures)
                        for index, record in enumerate(batch.records):
                            if index in failures:
                                raise failures[index]
                            yield record

    async def _listing(self) -> AsyncGenerator[list[str], None]:
        params = self.params
        if params.ids is not None:
            yield list(dict.fromkeys(params.ids))
            return
        query = [("order", "id"), ("fields", "id"), ("limit", str(LISTED))]
        query += [(name, value) for name, value in params.filters.items() if value is not None]
        query += [("without", params.without)] if params.without else []
        after = ""
        while True:
            items = await self._get(
                self._api(), [*query, ("after", after)], max_answer=LISTED * (_MAX_ID_LENGTH + 10)
            )
            ids = [str(item.get("id", "")) for item in items]
            if not _is_ascending([after, *ids] if after else ids) or any(
                item.keys() != {"id"} for item in items
            ):
                raise FatalError(
                    f"the service does not list {self._api()} by id (`order=id`), so rows could be missed",
                    kind="schema",
                )
            yield ids
            if len(ids) < LISTED:
                return
            after = ids[-1]

    async def _rows(self, api: str, ids: Sequence[str]) -> dict[str, Record | RecordError] | None:
        """Return the existing rows by id, or None if the answer is too large for so many at once."""
        limit = self.params.max_row_bytes
        if len(ids) > 1:
            limit = min(limit, _TOLERANCE * self.params.page_bytes)
        try:
            items = await self._get(api, [("id", identity) for identity in ids], max_answer=limit)
        except AnswerTooLargeError:
            if len(ids) == 1:
                message = f"the row is larger than {limit:,} bytes: raise `max_row_bytes`"
                return {ids[0]: RecordError(message, kind="RowTooLarge")}
            return None
        rows: dict[str, Record | RecordError] = {str(item.get("id")): item for item in items}
        if len(rows) > len(ids) or not rows.keys() <= set(ids):
            raise FatalError(f"GET /consumption/{api} returned rows that were not requested", kind="schema")
        return rows

    async def _get(
        self, api: str, query: Sequence[tuple[str, str]], *, max_answer: int
    ) -> list[Mapping[str, Any]]:
        assert self._client is not None, "enter the source first"
        path = f"/consumption/{api}"
        answer = await self._client.get(path, query, max_answer=max_answer)
        if answer.status >= 300:
            raise FatalError(f"GET {path} answered {answer.status}: {answer.excerpt()}")
        items = items_of(answer, path)
        self.ctx.count("bytes", len(answer.body))
        return items

    def _api(self) -> str:
        return self.params.api or consumption_api(self.params.model)

    def _split(self, number: int, ids: Sequence[str]) -> Split:
        manifest = {"api": self._api(), "ids": list(ids)}
        return Split(f"{number:06d}", manifest, first_ordinal=number * self.params.split_rows)


def _batch(api: str, ids: Sequence[str], rows: Mapping[str, Record | RecordError], *, first: int) -> Batch:
    """Return the rows in the order of the ids, with failures for missing ones."""
    gone = RecordError("the row was deleted after it was listed", kind="RowVanished")
    found = [rows.get(identity, gone) for identity in ids]
    records = [
        {"id": identity} if isinstance(row, RecordError) else row
        for identity, row in zip(ids, found, strict=True)
    ]
    batch = Batch(records, KeyList([f"{api}/{identity}" for identity in ids], first))
    batch.failures = [(index, row) for index, row in enumerate(found) if isinstance(row, RecordError)]
    batch.nbytes = sum(map(_weight, records))
    return batch


def _weight(record: Mapping[str, object]) -> int:
    return _ROW_OVERHEAD + sum(sys.getsizeof(value) for value in record.values())


def _is_ascending(ids: Sequence[str]) -> bool:
    return all(before < after for before, after in pairwise(ids))
