"""The simulated sources, for pipelines or `async for`."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import ClassVar, Generic, TypeVar

from anyio import to_thread
from pydantic import AwareDatetime, BaseModel, Field, TypeAdapter, field_validator

from connectors.models import BlobSource, EventSource, LogSource
from connectors.simulated.blob import BlobMaker
from connectors.simulated.blocks import BLOCK_SIZE, JsonObject, Maker, generate, pages
from connectors.simulated.events import EventMaker
from connectors.simulated.logs import LogMaker
from engine.contract.batch import Batch
from engine.contract.component import Context, Kind, Params, Source, component, operational
from engine.contract.keys import KeyRange
from engine.contract.split import Split
from engine.contract.types import JsonValue

__all__ = [
    "DEFAULT_RECORDS",
    "MAX_RECORDS",
    "BlobConnector",
    "EventsConnector",
    "LogsConnector",
    "SimulatedParams",
]

DEFAULT_RECORDS = 1000
MAX_RECORDS = 1_000_000_000
"""Of one run: its splits are in the ledger before the first of them is read."""

SEEDED_TIME = datetime(2025, 1, 1, tzinfo=UTC)
"""Where the times of a given seed begin: were it the clock, no two runs would give the same records."""

M = TypeVar("M", bound=BaseModel)


class SimulatedParams(Params):
    """Parameters of the simulated sources."""

    records: int = Field(
        default=DEFAULT_RECORDS,
        ge=1,
        le=MAX_RECORDS,
        description="Number of records to generate; 0 and null mean the default",
    )
    seed: int | str | None = Field(
        default=None,
        description="Seed of the records: the same seed gives the same ids, values and times (default: a "
        "new one for each run; a resumed run keeps it)",
    )
    base_time: AwareDatetime | None = Field(
        default=None,
        description="Start of the records' times (default: the start of the run, or with a seed "
        f"{SEEDED_TIME.isoformat()})",
    )
    page_size: int = operational(BLOCK_SIZE, ge=1, le=100_000, description="Records per batch")
    split_size: int = operational(
        100_000, ge=1, description="Records per split, the part of a run that one worker reads"
    )

    @field_validator("records", mode="before", json_schema_input_type=int | None)
    @classmethod
    def _default_for_none(cls, value: object) -> object:
        return DEFAULT_RECORDS if value is None or value in (0, "0") else value


class _SimulatedSource(Source[SimulatedParams], Generic[M]):
    """What the three kinds have in common: splits are ranges, positions and keys are ordinals.

    Its splits carry the seed and the time that the records are made from, so a split alone, on any
    machine, at any later time, gives the same records.
    """

    repeatable = True

    model: ClassVar[type[BaseModel]]
    maker_type: ClassVar[type[Maker]]

    def __init__(self, params: SimulatedParams | None = None, connection: BaseModel | None = None) -> None:
        super().__init__(params or SimulatedParams(), connection)
        # Its pools are made at the first record, not here: a component is cheap to build.
        self._maker = self.maker_type()

    @property
    def fresh_keys(self) -> bool:
        """The seed of a run is its own; one that was given may have been used before."""
        return self.params.seed is None

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """Ranges of `split_size` records; all have the same seed and base time."""
        seed, base_time = self._seed(ctx), self._base_time(ctx).isoformat()
        size = self.params.split_size
        for start in range(0, self.params.records, size):
            stop = min(start + size, self.params.records)
            manifest = {"start": start, "stop": stop, "seed": seed, "base_time": base_time}
            yield Split(f"{start}-{stop}", manifest, first_ordinal=start)

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Pages of mappings; a position is the ordinal of the next record."""
        manifest = split.manifest
        seed, stop = manifest["seed"], manifest["stop"]
        start = manifest["start"] if position is None else position
        base_time = datetime.fromisoformat(manifest["base_time"])
        await to_thread.run_sync(self._maker.prepare)  # the loop should not stand still for it
        for records in pages(self._maker, seed, start, stop, base_time, self.params.page_size):
            end = start + len(records)
            yield Batch(records, KeyRange(f"{seed}/", start, end), position=end)
            if ctx.draining():
                return
            start = end

    async def extract(self) -> AsyncGenerator[M, None]:
        """The records one by one, as models; for use without a pipeline.

        Without a `seed` every call gives new records.
        """
        ctx = self.ctx
        seed = secrets.token_hex(8) if self.params.seed is None else self.params.seed
        await to_thread.run_sync(self._maker.prepare)
        adapter: TypeAdapter[list[M]] = TypeAdapter(list[self.model])  # type: ignore[name-defined]
        params, base_time = self.params, self._base_time(ctx)
        for page in pages(self._maker, seed, 0, params.records, base_time, params.page_size):
            for record in adapter.validate_python(page):
                yield record

    def generate(self, seed: int | str, start: int, stop: int, base_time: datetime) -> list[JsonObject]:
        """Records `start` to `stop` (exclusive) of the run with this seed and begin, as plain mappings."""
        return generate(self._maker, seed, start, stop, base_time)

    def _seed(self, ctx: Context) -> str:
        if self.params.seed is not None:
            return str(self.params.seed)
        # Two nodes of one run are two sources: with the same seed the second would repeat the first's ids.
        return ":".join(part for part in (ctx.seed, ctx.pipeline, ctx.node) if part)

    def _base_time(self, ctx: Context) -> datetime:
        if self.params.base_time is not None:
            return self.params.base_time
        return SEEDED_TIME if self.params.seed is not None else ctx.started_at or ctx.clock.now()


@component(Kind.SOURCE, "blob", params=SimulatedParams, extra="simulated")
class BlobConnector(_SimulatedSource[BlobSource]):
    """Simulated objects of a blob store, as `BlobSource` records.

    Fifty buckets and fifty file names, folders one to three deep, 256 bytes to 10 MiB, one to four
    permissions, and the content type that belongs to the extension (null where there is none).
    """

    model = BlobSource
    maker_type = BlobMaker


@component(Kind.SOURCE, "logs", params=SimulatedParams, extra="simulated")
class LogsConnector(_SimulatedSource[LogSource]):
    """Simulated log lines of ten services, as `LogSource` records.

    Four levels with eight messages each; 70 % of the lines belong to one of eight traces, the others have
    none.
    """

    model = LogSource
    maker_type = LogMaker


@component(Kind.SOURCE, "events", params=SimulatedParams, extra="simulated")
class EventsConnector(_SimulatedSource[EventSource]):
    """Simulated product-analytics events, as `EventSource` records.

    Twenty-one event names in four projects, each with `properties` of its own as JSON text; 70 % are by a
    known visitor (`user_NNNN`), the others by a random UUID. A page view is the event `pageview`.
    """

    model = EventSource
    maker_type = EventMaker
