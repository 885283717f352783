"""The heartbeat of a chunk: it beats while the chunk gets on, and stops a chunk that does not.

A heartbeat that went on by itself would keep a wedged chunk alive for ever. So each beat looks at what the
run has done since the last one; a run that waits for an outage to end counts as alive, since `outage_limit`
bounds that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import anyio

from engine.engine import Run
from engine.errors import StalledError
from engine.stats import RunSnapshot, Waiting

__all__ = ["Cursor", "Pulse"]

Mark = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a heartbeat carries: a hint for people. Where to go on is in the ledger."""

    read: int = 0
    written: int = 0
    dead: int = 0
    v: int = 1


class Pulse:
    """Watches one run.

    Args:
        beat: called with the cursor, as a mapping, at every beat.
        every: seconds between two beats.
        stall_after: seconds without any progress after which the run is stopped as stalled.
    """

    def __init__(
        self,
        run: Run,
        beat: Callable[[Mapping[str, int]], None],
        *,
        every: float = 5.0,
        stall_after: float = 600.0,
    ) -> None:
        self._run = run
        self._beat = beat
        self._every = every
        self._stall_after = stall_after

    async def watch(self) -> None:
        """Beat for ever, or until the run has stalled."""
        seen, since = _mark(self._run.snapshot()), anyio.current_time()
        while True:
            snapshot = self._run.snapshot()
            mark = _mark(snapshot)
            if mark != seen or _waits_for_an_outage(snapshot):
                seen, since = mark, anyio.current_time()
            elif anyio.current_time() - since >= self._stall_after:
                where = snapshot.waits_for or "nothing that is known"
                self._run.abort(
                    StalledError(f"nothing moved for {self._stall_after:g} s; it waits for {where}")
                )
                return
            tally = snapshot.tally
            self._beat(asdict(Cursor(tally.read, tally.written, tally.dead)))
            await anyio.sleep(self._every)


def _mark(snapshot: RunSnapshot) -> Mark:
    """Numbers that change whenever anything has been done."""
    tally = snapshot.tally
    marks: list[float] = [tally.read, tally.written, tally.dropped, tally.dead, tally.tokens_in]
    for node in snapshot.nodes:
        marks += [node.records_in, node.records_out, node.batches, node.retries, *node.aggregate.values()]
    return tuple(marks)


def _waits_for_an_outage(snapshot: RunSnapshot) -> bool:
    return any(node.waiting in (Waiting.RETRY, Waiting.OUTAGE) for node in snapshot.nodes)
