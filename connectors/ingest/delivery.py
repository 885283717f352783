"""Send the request bodies of one batch and collect the outcome of each record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import quote

import anyio

from connectors.ingest.answers import Verdict, interpret_answer
from connectors.ingest.columns import COLUMNS_TYPE, offered_columns
from connectors.ingest.local_validation import remark_on_unknown_model
from connectors.ingest.payload import Body, idempotency_key
from connectors.warehouse.client import NoSuchRouteError, UncertainError, WarehouseClient
from engine.contract.batch import Batch
from engine.errors import FatalError, RecordError, TransientError

_PER_ATTEMPT = 1_000_000_000  # more uncertain answers than one attempt can wait for
_MAX_SCOPE = 200
_DIGEST = 65  # characters of a digest and its prefix
_MAX_MARKS = 100_000
_MAX_ORIGIN = 1_000
_MAX_BEFORE_OFFER = 1_000
_ANSWER_BASE = 1024 * 1024
_ANSWER_PER_RECORD = 16 * 1024


@dataclass(slots=True)
class Fates:
    """Outcomes of the records of a batch during its delivery.

    `failures` maps positions in the batch to errors; every other record of `sent` arrived.
    """

    failures: dict[int, RecordError | TransientError]
    sent: int = 0
    confirmed: bool = True
    sizes: dict[int, int] = field(default_factory=dict)
    """Bytes sent for each record, on average over its request; kept only when asked for."""


class Epoch:
    """A number that grows with each attempt of a run and each request whose outcome is unknown.

    A request that was sent before it grew may still arrive later. Its lower number tells the service that its
    records may have been delivered again meanwhile.

    Args:
        scope: scope within which numbers are compared; see `epoch_scope`.
        attempt: number of the attempt at the run, or at any part of it.
    """

    def __init__(self, scope: str, attempt: int) -> None:
        self._scope = scope
        self._number = attempt * _PER_ATTEMPT

    @property
    def header(self) -> str:
        """The value of `X-ODW-Epoch` for a request that is sent now."""
        return f"{self._scope} {self._number}"

    def advance(self) -> None:
        """Increment the epoch after a request with an unknown outcome."""
        self._number += 1


def epoch_scope(run_id: str, node: str, chunk: str = "") -> str:
    """Encode a node of a run or chunk as 1 to 200 characters without spaces, for a header.

    Chunks of a run share no records, so a chunk's requests (`run/node#chunk`) are compared with each other
    and with those of the run as a whole.
    """
    whole = f"{quote(run_id, safe='')}/{quote(node, safe='')}"
    part = f"#{quote(chunk, safe='')}" if chunk else ""
    if len(whole) + max(len(part), _DIGEST) <= _MAX_SCOPE:
        return whole + part
    whole = whole if len(whole) + _DIGEST <= _MAX_SCOPE else sha256(whole.encode()).hexdigest()
    return f"{whole}#{sha256(part.encode()).hexdigest()}" if part else whole


class ReplayMarks:
    """Keys of records that may have arrived although their request failed.

    If they are sent again in another request, they have to replace existing rows. Up to 100,000 keys are
    remembered; beyond that, every key counts as marked.
    """

    def __init__(self) -> None:
        self._keys: set[str] = set()
        self._all = False

    def __bool__(self) -> bool:
        return self._all or bool(self._keys)

    def add(self, keys: Sequence[str]) -> None:
        """Mark these keys."""
        self._keys.update(keys)
        if len(self._keys) > _MAX_MARKS:
            self._keys.clear()
            self._all = True

    def touch(self, keys: Sequence[str]) -> bool:
        """Return whether any of these keys is marked."""
        return self._all or not self._keys.isdisjoint(keys)

    def discard(self, keys: Sequence[str]) -> None:
        """Remove the marks of records that are known to have arrived."""
        self._keys.difference_update(keys)


class Delivery:
    """Sends requests of one model. `origin` is the value of `X-ODW-Origin`, "" for none.

    Attributes:
        client: sends the requests.
        gives_results: whether the service reports the outcome of each record; None until its first answer.
        max_body: maximum bytes of a request; reduced after the service has refused one as too large.
    """

    def __init__(
        self,
        client: WarehouseClient,
        *,
        model: str,
        scope: str,
        epoch: Epoch,
        origin: str,
        compress: bool,
        max_body: int,
        any_success: bool = False,
        unless_newer: int | None = None,
    ) -> None:
        self.gives_results: bool | None = None
        self.max_body = max_body
        self._columns: dict[str, str] | None = {}  # none yet; None: none ever
        self._before_offer: set[tuple[str, str]] = set()
        self.marks = ReplayMarks()
        self.client = client
        self._path = f"/ingest/{model}"
        self._model = model
        self._scope = scope
        self._epoch = epoch
        self._origin = origin
        self._compress = compress
        self._any_success = any_success
        self._guard = {} if unless_newer is None else {"X-ODW-Unless-Newer": str(unless_newer)}
        self._last: tuple[bytes, dict[str, str], int] | None = None  # acknowledged, of at most about 512 KB

    def columns_for(self, batch: Batch) -> Mapping[str, str]:
        """Return the SQL types of the columns that the service accepts, by name; empty to send JSON.

        A batch that was first sent as JSON stays JSON: in another form it would have another idempotency key
        and be stored twice.
        """
        if self._columns is None:
            return {}
        ends = _place(batch, 0), _place(batch, len(batch) - 1)
        if not self._columns:
            self._before_offer.add(ends)
            if len(self._before_offer) > _MAX_BEFORE_OFFER:
                self._columns = None
            return {}
        return {} if ends in self._before_offer else self._columns

    async def send(self, batch: Batch, bodies: Sequence[Body], fates: Fates, *, keep_sizes: bool) -> None:
        """Send the bodies one after another, stopping at a transient failure.

        Raises:
            FatalError: nothing can be delivered to this service.
        """
        waiting = list(reversed(bodies))
        while waiting:
            body = waiting.pop()
            try:
                verdict = await self._post(batch, body)
            except TransientError as error:
                for late in (body, *waiting):
                    fates.failures.update(dict.fromkeys(late.indices, error))
                return
            if verdict is None and len(body.indices) > 1:
                self.max_body = min(self.max_body, max(len(body.content) // 2, 1024))
                waiting += reversed(body.halves(batch.records))
                continue
            self._record(body, verdict or _too_large(body), fates, keep_sizes=keep_sizes)

    def _record(self, body: Body, verdict: Verdict, fates: Fates, *, keep_sizes: bool) -> None:
        indices = body.indices
        fates.sent += len(indices)
        fates.confirmed = fates.confirmed and verdict.per_record
        for place, error in verdict.failures.items():
            fates.failures[indices[place]] = error
        if keep_sizes:
            fates.sizes.update(dict.fromkeys(indices, len(body.content) // len(indices)))

    async def _post(self, batch: Batch, body: Body) -> Verdict | None:
        """Send one body; return None if it was too large for the service."""
        count = len(body.indices)
        replay = batch.replay or (bool(self.marks) and self.marks.touch(_keys(batch, body)))
        headers = {
            "Idempotency-Key": self._key(batch, body),
            "X-ODW-Results": "per-record",
            "X-ODW-Delivery": "replay" if replay else "fresh",
            "X-ODW-Epoch": self._epoch.header,
            **self._guard,
        }
        if self._origin:
            headers["X-ODW-Origin"] = self._origin
        content = body.content
        if body.is_columns:
            headers["Content-Type"] = COLUMNS_TYPE
        if self._compress:
            headers["Content-Encoding"] = "gzip"
            content = await anyio.to_thread.run_sync(_gzip, content)
        limit = _ANSWER_BASE + _ANSWER_PER_RECORD * count
        try:
            answer = await self.client.post(self._path, content, headers, max_answer=limit)
        except NoSuchRouteError as error:
            raise FatalError(f"{error}{remark_on_unknown_model(self._model)}") from error
        except UncertainError:
            self.marks.add(_keys(batch, body))
            self._epoch.advance()  # a replay of these records has to differ from this request
            raise
        if answer.status == 413:
            return None
        if body.is_columns and answer.status >= 400:
            # the service may have been replaced by another: let it report errors about JSON
            self._columns = None
            return await self._post(batch, body.as_json(batch.records))
        verdict = interpret_answer(answer, count, f"POST {self._path}", any_success=self._any_success)
        if answer.status < 300:
            self.gives_results = verdict.per_record
            self._last = (content, headers, limit)
            if self._columns == {} and not answer.columns:
                self._columns = None
            elif self._columns == {}:
                # in a thread: importing the encoder of columns takes some tenths of a second
                offered = await anyio.to_thread.run_sync(offered_columns, answer.columns)
                self._columns = offered or None
        if self.marks:
            self.marks.discard(_keys(batch, body))
        return verdict

    async def repeat(self) -> bool:
        """Send the last acknowledged request again; return whether it is acknowledged again.

        It is sent like any other request, but only to a service that gives results: that knows the key and
        counts the request once.
        """
        if self._last is None or not self.gives_results:
            return False
        content, headers, limit = self._last
        try:
            answer = await self.client.post(self._path, content, headers, max_answer=limit)
        except (TransientError, FatalError):
            return False
        return answer.status < 300

    def _key(self, batch: Batch, body: Body) -> str:
        # Places distinguish parts of a source that happen to have the same bytes: from bytes alone, the
        # second A of A, B, A would look like a retry, and B would win.
        ends = (_place(batch, body.indices[0]), _place(batch, body.indices[-1]))
        return idempotency_key(body.content, self._scope, self._model, *ends)


def origin_header(pipeline: str, run_id: str, node: str) -> str:
    """Return the value of `X-ODW-Origin`; "" without a pipeline, or when it would be too long."""
    header = "/".join(quote(part, safe="") for part in (pipeline, run_id, node))
    return header if pipeline and run_id and node and len(header) <= _MAX_ORIGIN else ""


def _place(batch: Batch, index: int) -> str:
    """Return a record's place in its source. A key is not enough: keys of an update stream repeat."""
    one = batch.slice(index, index + 1)
    (key,), (ordinal,) = one.keys.to_list(), one.keys.ordinals()
    split = one.origins[0][0].tracker.key if one.origins else ""
    return f"{split}\0{ordinal}\0{key}"


def _keys(batch: Batch, body: Body) -> list[str]:
    return batch.keys.take(body.indices).to_list()


def _too_large(body: Body) -> Verdict:
    message = f"the service rejected the record as too large (413): {len(body.content):,} bytes"
    return Verdict({0: RecordError(message, kind="RecordTooLarge")}, per_record=True)


def _gzip(content: bytes) -> bytes:
    import gzip

    # level 1: a third of the time of the default level for a tenth more bytes
    return gzip.compress(content, compresslevel=1, mtime=0)
