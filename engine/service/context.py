"""State shared by the routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread

from engine.service.auth import AdminCheck, KeyCheck
from engine.service.bodies import BodyLimits, InflightBytes
from engine.service.column_bodies import ColumnReader, column_reader
from engine.service.metrics import Metrics
from engine.service.models import IngestModel, check_names
from engine.service.operations import Operations, RunHost
from engine.service.page.access import Access
from engine.service.reading_routes import queries_of
from engine.service.settings import ServiceSettings
from engine.service.sql import QueryLimits
from engine.service.storage import Reader
from engine.service.tables import Table
from engine.service.validation import BodyValidator
from engine.service.warehouse import Warehouse

T = TypeVar("T")

_READERS = 4
_QUERIES = 2
_PARSERS = 2  # each may need a hundred times the size of its body


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An ingest model with its validator, its table, and the reader of its columns, if any."""

    model: IngestModel
    validator: BodyValidator
    table: Table | None
    columns: ColumnReader | None = None


def _endpoint(model: IngestModel, warehouse: Warehouse, max_records: int) -> Endpoint:
    table = warehouse.tables[model.table] if model.table else None
    columns = column_reader(model, table, max_records)
    return Endpoint(model, BodyValidator(model.model, max_records), table, columns)


class ServiceContext:
    """The warehouse, endpoints and reading routes by lower-case name, the limits and keys of one service."""

    def __init__(
        self,
        warehouse: Warehouse,
        models: Iterable[IngestModel],
        settings: ServiceSettings,
        host: RunHost | None = None,
        operations: Operations | None = None,
    ) -> None:
        self.warehouse = warehouse
        self.operations = operations
        self.host = host
        self.settings = settings
        self.endpoints = {
            model.name.lower(): _endpoint(model, warehouse, settings.max_records)
            for model in check_names(models)
        }
        self.queries = queries_of((one.model for one in self.endpoints.values()), warehouse.tables)
        self.ingest_key = KeyCheck(settings.ingest_api_key)
        self.consumption_key = KeyCheck(settings.consumption_api_key)
        self.admin_key = AdminCheck(settings.admin_api_key, settings.admin_tokens)
        self.inflight = InflightBytes(settings.max_inflight_size)
        self.body_limits = BodyLimits(settings.max_body_size, settings.body_timeout, settings.min_rate)
        self.streams = anyio.Semaphore(settings.max_streams)
        self.metrics = Metrics(one.model.name for one in self.endpoints.values())
        self.access = Access(self)
        self.viewers = 0
        self.is_stopping = False
        self._accepted = 0
        self._unanswered = anyio.Event()
        self._readers = anyio.CapacityLimiter(_READERS)
        self.query_limits = QueryLimits(settings.query_timeout, settings.query_memory)
        self._queries = anyio.CapacityLimiter(_QUERIES)
        self._parsers = anyio.CapacityLimiter(_PARSERS)

    @property
    def takes_records(self) -> bool:
        """Whether a request to store records would currently be accepted."""
        self.inflight.make_room()
        return (
            not self.is_stopping
            and self.warehouse.problem is None
            and not self.warehouse.writer.is_full
            and self.inflight.has_room
        )

    @contextmanager
    def accepted(self) -> Iterator[None]:
        """Track an accepted request until its response."""
        self._accepted += 1
        try:
            yield
        finally:
            self._accepted -= 1
            if not self._accepted:
                self._unanswered.set()

    async def finish_accepted(self) -> None:
        """Wait until every accepted request has its response; reject new ones meanwhile."""
        while self._accepted:
            self._unanswered = anyio.Event()
            await self._unanswered.wait()

    async def read(self, look: Callable[[Reader], T]) -> T:
        """Read the warehouse, from one state of it, in a worker thread; see `in_thread`."""

        def run() -> T:
            with self.warehouse.reading() as reader:
                return look(reader)

        return await self.in_thread(run)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a blocking read in a worker thread, at most four at a time."""
        return await anyio.to_thread.run_sync(function, limiter=self._readers)

    async def querying(self, function: Callable[[], T]) -> T:
        """Run a user's query in a worker thread, at most two at a time."""
        return await anyio.to_thread.run_sync(function, limiter=self._queries)

    async def beside(self, function: Callable[[], T]) -> T:
        """Run work on a large body in a worker thread, at most two at a time."""
        return await anyio.to_thread.run_sync(function, limiter=self._parsers)
