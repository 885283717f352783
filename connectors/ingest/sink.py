"""The `ingest` sink."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel

from connectors.forwarding import forward_row
from connectors.ingest.columns import encode_columns
from connectors.ingest.counting import count_deliveries, newest_delivery
from connectors.ingest.delivery import Delivery, Epoch, Fates, epoch_scope, origin_header
from connectors.ingest.local_validation import LocalValidator, local_validator, record_check
from connectors.ingest.params import Confirm, IngestConnection, IngestParams, LocalValidation
from connectors.ingest.payload import Body, Payload, encode
from connectors.ingest.visibility import VisibilityCheck
from connectors.warehouse.client import open_client
from connectors.warehouse.rows import consumption_api
from engine.contract.batch import Batch
from engine.contract.checking import RecordCheck
from engine.contract.component import BatchLimits, Context, Kind, Receipt, Sink, component
from engine.contract.dead_letter import DeadLetter
from engine.contract.types import Record
from engine.contract.verification import Check, Delivered
from engine.errors import BatchError, FatalError, RecordError, TransientError

_MAX_RECORD = 8 * 1024 * 1024
_MAX_RECORD_PLAIN = 1_000_000
_MAX_COLUMNS = _MAX_RECORD // 8  # keeps every record below the limit of a record, even with JSON's escapes


@component(
    Kind.SINK, "ingest", params=IngestParams, connection=IngestConnection, sandbox="ingest", extra="ingest"
)
class IngestSink(Sink[IngestParams]):
    """Posts records to an ingest service: `POST /ingest/<model>`.

    Records are sent as JSON arrays, each record as its JSON dump, with sets in order. The service is asked
    for the outcome of every record; one that does not report it has accepted the records when it answers 200,
    and the report says `accepted`. Requests carry an idempotency key, so a repeated request changes nothing,
    and an epoch, so a late one duplicates nothing.

    | status | meaning |
    |---|---|
    | 2xx | arrived; records that the service names as dead become dead letters. An answer that is neither \
`SUCCESS` nor results per record stops the run, unless `any_success` is set |
    | 400, 422 | the whole batch becomes dead letters, each marked so; a page for people stops the run |
    | 413 | the batch is halved and sent again |
    | 408, 409, 423, 424, 425, 429, 5xx, broken connections | the engine tries again and honours Retry-After |
    | 3xx, any other 4xx | the run stops: such an answer is about the service, not about a record |
    """

    def __init__(self, params: IngestParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._delivery: Delivery | None = None
        self._visibility: VisibilityCheck | None = None
        self._validator: LocalValidator | None = None

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the HTTP client."""
        connection = self.connection
        if not isinstance(connection, IngestConnection):
            raise FatalError("the ingest sink needs a connection with the `url` of the service")
        params, clock = self.params, self.ctx.clock
        client = await stack.enter_async_context(
            open_client(connection, concurrency=params.concurrency, longest=params.timeout, clock=clock)
        )
        scope = self._scope()
        self._epoch_scope = epoch_scope(scope, self.ctx.node, self.ctx.chunk)
        self._delivery = Delivery(
            client,
            model=params.model,
            scope=f"{scope}\0{self.ctx.node}",  # two nodes may send the same records to the same model
            epoch=Epoch(self._epoch_scope, self.ctx.epoch),
            origin=origin_header(self.ctx.pipeline, self.ctx.run_id, self.ctx.node),
            compress=params.compress,
            max_body=params.bytes,
            any_success=params.any_success,
            unless_newer=await newest_delivery(client, params.model) if self.ctx.keep_newer else None,
        )
        if params.validation is not LocalValidation.NEVER:
            self._validator = local_validator(params.model)
        if params.confirm is Confirm.VISIBLE:
            self._visibility = VisibilityCheck(
                client,
                model=params.model,
                path=f"/consumption/{params.consumption_api or consumption_api(params.model)}",
                timeout=params.confirm_timeout,
                interval=params.confirm_interval,
                clock=clock,
                seed=f"{self.ctx.seed}/{self.ctx.node}",
            )
        stack.callback(setattr, self, "_delivery", None)

    @classmethod
    def record_check(cls, params: IngestParams, declared: Sequence[Any]) -> RecordCheck | None:
        """Return a function that finds the records that the service would refuse; see `ChecksRecords`."""
        if params.validation is LocalValidation.NEVER:
            return None
        most = params.max_record_bytes or _MAX_RECORD
        return record_check(params.model, declared, max_body=params.bytes, max_record=most)

    async def check_connection(self) -> str:
        """Ask the service for its health, with the token; see `ChecksConnection`."""
        assert isinstance(self.connection, IngestConnection)
        clock, longest = self.ctx.clock, self.params.timeout
        async with open_client(self.connection, concurrency=1, longest=longest, clock=clock) as client:
            answer = await client.get("/health", [], max_answer=64 * 1024)
        return "the service is healthy" if answer.is_json else "the answer is not from an ingest service"

    async def is_answering(self) -> bool:
        """Return whether the service takes the last acknowledged request again, which changes nothing.

        With `confirm: visible` that is not enough: the consumption API may be the one that is unavailable.
        """
        if self._delivery is None or self._visibility is not None:
            return False
        answered = await self._delivery.repeat()
        self.ctx.count("probes", answered)
        return answered

    @property
    def concurrency(self) -> int:
        """Requests in flight."""
        return self.params.concurrency

    @property
    def limits(self) -> BatchLimits:
        """One batch becomes one request, unless its size was underestimated."""
        return BatchLimits(records=self.params.records, nbytes=self.params.bytes)

    async def write(self, batch: Batch) -> Receipt:
        """Deliver a batch.

        Raises:
            BatchError: some records failed: refused locally, dead in the service, or not visible in time.
            TransientError: no record is known to have arrived; the batch may be sent again unchanged.
            FatalError: the endpoint, the model or the token is wrong.
        """
        fates = await self._deliver(batch)
        if self._visibility is not None:
            await self._await_visible(self._visibility, batch, fates)
        if fates.failures:
            raise _error(fates, len(batch))
        return Receipt(confirmed=fates.confirmed)

    async def write_dead_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Post dead letters as rows of `UnstructuredDataSource` (see `forward_row`).

        The service's transform refuses rows with the `[DLQ]` prefix and keeps them in its own dead letters,
        where they count as delivered.

        Raises:
            BatchError, TransientError, FatalError: as for `write`, for letters that did not arrive.
        """
        size, lost = self.params.records, Fates({})
        for start in range(0, len(letters), size):
            rows = [forward_row(letter) for letter in letters[start : start + size]]
            ids = [row["id"] for row in rows]
            # an earlier attempt or run may have delivered them already
            self._open_delivery().marks.add(ids)
            fates = await self._deliver(Batch([*rows], ids))
            for index, error in fates.failures.items():
                if isinstance(error, TransientError) or error.stage != "service":
                    lost.failures[start + index] = error
        if lost.failures:
            raise _error(lost, len(letters))

    async def count_records(self, delivered: Delivered) -> Sequence[Check]:
        """Ask the service how many rows and dead letters it has of this run and node.

        Raises:
            TransientError: the service is not available now.
        """
        return await count_deliveries(
            self._open_delivery().client,
            delivered,
            model=self.params.model,
            scope=self._epoch_scope,
            started_at=self.ctx.started_at,
            now=self.ctx.clock.now(),
        )

    async def _deliver(self, batch: Batch) -> Fates:
        delivery = self._open_delivery()
        payload = self._encode(batch, delivery)
        fates = Fates(dict(payload.failures))
        bodies = self._validated(batch, payload, delivery, fates)
        if self._visibility is not None:
            bodies = _with_ids(batch, bodies, fates)
        await delivery.send(batch, bodies, fates, keep_sizes=self._visibility is not None)
        self.ctx.count("requests", len(bodies))
        self.ctx.count("bytes", sum(len(body.content) for body in bodies))
        return fates

    def _encode(self, batch: Batch, delivery: Delivery) -> Payload:
        if self._may_send_columns and len(batch) and (columns := delivery.columns_for(batch)):
            content = encode_columns(batch.records, columns)
            if content is not None and len(content) <= min(delivery.max_body, _MAX_COLUMNS):
                return Payload([Body(content, range(len(batch)), is_columns=True)], {})
        limit = self.params.max_record_bytes
        if limit is None:
            limit = _MAX_RECORD_PLAIN if delivery.gives_results is False else _MAX_RECORD
        return encode(batch.records, max_body=delivery.max_body, max_record=limit)

    @property
    def _may_send_columns(self) -> bool:
        """Return whether no parameter needs each record's JSON."""
        asks = self.params.validation is LocalValidation.ALWAYS or self.params.max_record_bytes is not None
        return self.params.columns and not asks

    def _validated(self, batch: Batch, payload: Payload, delivery: Delivery, fates: Fates) -> list[Body]:
        if self._validator is None:
            return payload.bodies
        if self.params.validation is LocalValidation.AUTO and delivery.gives_results:
            return payload.bodies
        bodies: list[Body] = []
        for body in payload.bodies:
            bad = self._validator.failures(body.content, body.indices)
            fates.failures.update(bad)
            good = body.without(bad, batch.records) if bad else body
            if good is not None:
                bodies.append(good)
        return bodies

    async def _await_visible(self, check: VisibilityCheck, batch: Batch, fates: Fates) -> None:
        places: dict[str, list[int]] = {}
        sizes: dict[str, int] = {}
        for index, size in fates.sizes.items():
            if index not in fates.failures:
                identity = _identity(batch.records[index])
                places.setdefault(identity, []).append(index)
                sizes[identity] = sizes.get(identity, 0) + size
        if not places:
            return
        unseen = await check.wait(sizes)
        for identity, error in unseen.items():
            fates.failures.update(dict.fromkeys(places[identity], error))
        late = [places[identity] for identity, error in unseen.items() if isinstance(error, TransientError)]
        if late:
            self._open_delivery().marks.add(batch.keys.take(sorted(chain.from_iterable(late))).to_list())

    def _scope(self) -> str:
        # Without a run, no other process retries, and two scripts that send the same rows on purpose must not
        # cancel each other out.
        return uuid4().hex if self.ctx.run_id == Context().run_id else self.ctx.run_id

    def _open_delivery(self) -> Delivery:
        if self._delivery is None:
            raise RuntimeError("the ingest sink is used outside of `async with`")
        return self._delivery


def _identity(record: Record) -> str:
    value = record.get("id") if isinstance(record, dict) else getattr(record, "id", None)
    return str(value) if isinstance(value, str | int | UUID) and not isinstance(value, bool) else ""


def _with_ids(batch: Batch, bodies: list[Body], fates: Fates) -> list[Body]:
    """Remove records without an id, which could never be seen as visible."""
    missing = {index for body in bodies for index in body.indices if not _identity(batch.records[index])}
    if not missing:
        return bodies
    for index in missing:
        fates.failures[index] = RecordError(
            "`confirm: visible` needs a field `id` that is a text, a whole number or a UUID", kind="MissingId"
        )
    return [kept for body in bodies if (kept := body.without(missing, batch.records)) is not None]


def _error(fates: Fates, count: int) -> BatchError | TransientError:
    """Return a TransientError if the whole batch may be sent again, else a BatchError."""
    failures = fates.failures
    if len(failures) == count:
        transient = [error for error in failures.values() if isinstance(error, TransientError)]
        if len(transient) == count:
            return max(transient, key=lambda error: error.retry_after or 0.0)
    return BatchError(dict(sorted(failures.items())), confirmed=fates.confirmed)
