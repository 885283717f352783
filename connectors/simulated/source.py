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

DEFAULT_RECORDS = 1000
MAX_RECORDS = 1_000_000_000
"""Maximum splits of a run, since all are in the ledger before the first is read."""

SEEDED_TIME = datetime(2025, 1, 1, tzinfo=UTC)
"""Start of the timestamps for a given seed: with the current time, runs would differ."""

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
    """The base of the three kinds: splits are ranges, positions and keys are ordinals.

    Splits contain the seed and the base time, so a split gives the same records on any machine at any time.
    """

    repeatable = True

    model: ClassVar[type[BaseModel]]
    maker_type: ClassVar[type[Maker]]

    def __init__(self, params: SimulatedParams | None = None, connection: BaseModel | None = None) -> None:
        super().__init__(params or SimulatedParams(), connection)
        # The pools are built at the first record, so that a component is cheap to create.
        self._maker = self.maker_type()

    @property
    def fresh_keys(self) -> bool:
        """True if each run draws its own seed; a given seed may have been used before."""
        return self.params.seed is None

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """Return ranges of `split_size` records, all with the same seed and base time."""
        seed, base_time = self._seed(ctx), self._base_time(ctx).isoformat()
        size = self.params.split_size
        for start in range(0, self.params.records, size):
            stop = min(start + size, self.params.records)
            manifest = {"start": start, "stop": stop, "seed": seed, "base_time": base_time}
            yield Split(f"{start}-{stop}", manifest, first_ordinal=start)

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Yield pages of mappings; a position is the ordinal of the next record."""
        manifest = split.manifest
        seed, stop = manifest["seed"], manifest["stop"]
        start = manifest["start"] if position is None else position
        base_time = datetime.fromisoformat(manifest["base_time"])
        await to_thread.run_sync(self._maker.prepare)  # building them would block the event loop
        for records in pages(self._maker, seed, start, stop, base_time, self.params.page_size):
            end = start + len(records)
            yield Batch(records, KeyRange(f"{seed}/", start, end), position=end)
            if ctx.draining():
                return
            start = end

    async def extract(self) -> AsyncGenerator[M, None]:
        """Yield the records as models, without a pipeline.

        Without a `seed`, every call generates new records.
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
        """Generate records `start` to `stop` (exclusive) for this seed and base time, as plain mappings."""
        return generate(self._maker, seed, start, stop, base_time)

    def _seed(self, ctx: Context) -> str:
        if self.params.seed is not None:
            return str(self.params.seed)
        # With the same seed, a second node of the run would repeat the ids of the first.
        return ":".join(part for part in (ctx.seed, ctx.pipeline, ctx.node) if part)

    def _base_time(self, ctx: Context) -> datetime:
        if self.params.base_time is not None:
            return self.params.base_time
        return SEEDED_TIME if self.params.seed is not None else ctx.started_at or ctx.clock.now()


@component(Kind.SOURCE, "blob", params=SimulatedParams, extra="simulated")
class BlobConnector(_SimulatedSource[BlobSource]):
    """Simulated objects of a blob store, as `BlobSource` records.

    Fifty buckets and fifty file names, folders one to three deep, 256 bytes to 10 MiB, one to four
    permissions, and the content type of the file extension (null without one).
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

    Twenty-one event names in four projects, each with its own `properties` as JSON text; 70 % are by known
    visitors (`user_NNNN`), the others have a random UUID. A page view is the event `pageview`.
    """

    model = EventSource
    maker_type = EventMaker
