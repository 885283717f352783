"""Wait until the consumption API returns what was ingested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from connectors.warehouse.client import WarehouseClient
from connectors.warehouse.rows import id_chunks, items_of
from engine.contract.clock import Clock
from engine.errors import FatalError, RecordError, TransientError

_MAX_PAUSE = 2.0
_SMALLEST_ANSWER_LIMIT = 1024 * 1024


class VisibilityCheck:
    """Query ids until all are visible or the time limit is reached.

    It waits `interval` seconds between two queries, doubling up to 2 s, with 25 % jitter. It does not wait
    for rows in the service's dead letters.
    """

    def __init__(
        self,
        client: WarehouseClient,
        *,
        model: str,
        path: str,
        timeout: float,
        interval: float,
        clock: Clock,
        seed: str,
    ) -> None:
        self._client = client
        self._model = model.partition("/")[0]
        self._path = path
        self._timeout = timeout
        self._interval = interval
        self._clock = clock
        self._random = Random(seed)  # noqa: S311 - spreads polls, hides nothing
        self._has_dead_letters = True

    async def wait(self, sizes: Mapping[str, int]) -> dict[str, RecordError | TransientError]:
        """Wait for the ids of `sizes` (id -> bytes sent for it). Return those not seen, with the reason.

        Raises:
            FatalError: the consumption API does not exist, or requires a token that is missing.
            TransientError: the consumption API failed at every query.
        """
        missing = dict(sizes)
        dead: dict[str, RecordError | TransientError] = {}
        deadline = self._clock.monotonic() + self._timeout
        pause, looked = self._interval, False
        while True:
            asked_to_wait = 0.0
            try:
                await self._look(missing, dead)
                looked = True
            except TransientError as error:
                if not looked and self._clock.monotonic() + pause >= deadline:
                    raise
                asked_to_wait = error.retry_after or 0.0
            left = deadline - self._clock.monotonic()
            if not missing or left <= 0:
                break
            jittered = pause * self._random.uniform(0.75, 1.25)
            await self._clock.sleep(min(max(jittered, asked_to_wait), left))
            pause = min(pause * 2, _MAX_PAUSE)
        late = f"the row was acknowledged but not visible at {self._path} within {self._timeout:g} s"
        return {**dead, **{identity: TransientError(late) for identity in missing}}

    async def _look(self, missing: dict[str, int], dead: dict[str, RecordError | TransientError]) -> None:
        for ids in id_chunks(list(missing)):
            limit = _SMALLEST_ANSWER_LIMIT + 4 * sum(missing[identity] for identity in ids)
            for identity in await self._visible(ids, limit):
                missing.pop(identity, None)
            late = [identity for identity in ids if identity in missing]
            if late and self._has_dead_letters:
                found = await self._dead(late, limit)
                dead.update((identity, found[identity]) for identity in late if identity in found)
                for identity in found:
                    missing.pop(identity, None)

    async def _visible(self, ids: Sequence[str], limit: int) -> list[str]:
        query = [("id", identity) for identity in ids] + [("limit", str(len(ids)))]
        answer = await self._client.get(self._path, query, max_answer=limit)
        if answer.status >= 300:
            raise FatalError(f"GET {self._path} answered {answer.status}: {answer.excerpt()}")
        return [str(item.get("id")) for item in items_of(answer, self._path)]

    async def _dead(self, ids: Sequence[str], limit: int) -> dict[str, RecordError]:
        query = [("model", self._model), ("status", "open"), ("limit", str(len(ids)))]
        query += [("id", identity) for identity in ids]
        try:
            answer = await self._client.get("/dead-letters", query, max_answer=limit)
        except FatalError:
            answer = None
        if answer is None or answer.status >= 300:
            self._has_dead_letters = False  # a service without that API: wait for the time limit
            return {}
        return {
            str(item.get("record_id")): RecordError(
                str(item.get("error_message")), kind=str(item.get("error_type")), stage="service"
            )
            for item in items_of(answer, "/dead-letters")
        }
