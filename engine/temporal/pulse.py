"""The heartbeat of an activity: it beats while the work gets on, and stops work that does not.

A heartbeat that went on by itself would keep wedged work alive for ever. So each beat looks at what has been
done since the last one; a run that waits for an outage to end counts as alive, since `outage_limit` bounds
that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import anyio

from engine.errors import StalledError
from engine.stats import RunSnapshot, Waiting

__all__ = ["Cursor", "Pulse", "Vitals", "vitals"]

Mark = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a heartbeat carries: a hint for people. Where to go on is in the ledger."""

    read: int = 0
    written: int = 0
    dead: int = 0
    v: int = 1


@dataclass(frozen=True, slots=True)
class Vitals:
    """How some work stands.

    Args:
        mark: numbers of which one changes whenever anything has been done.
        waits_for: for people, "" when that is not known.
        excused: it waits for something whose end is looked after elsewhere.
    """

    mark: Mark
    cursor: Cursor = field(default_factory=Cursor)
    waits_for: str = ""
    excused: bool = False


class Pulse:
    """Watches one piece of work.

    Args:
        look: how the work stands.
        beat: called with the cursor, as a mapping, at every beat.
        stop: called once, when nothing has moved for too long.
        every: seconds before the first beat, and between two of them.
        stall_after: seconds without any progress.
    """

    def __init__(
        self,
        look: Callable[[], Vitals],
        beat: Callable[[Mapping[str, int]], None],
        stop: Callable[[StalledError], None],
        *,
        every: float = 5.0,
        stall_after: float = 600.0,
    ) -> None:
        self._look = look
        self._beat = beat
        self._stop = stop
        self._every = every
        self._stall_after = stall_after

    async def watch(self) -> None:
        """Beat for ever, or until the work has stalled. Short work needs no beat, and each may cost money."""
        seen, since = self._look().mark, anyio.current_time()
        while True:
            await anyio.sleep(self._every)
            now = self._look()
            if now.mark != seen or now.excused:
                seen, since = now.mark, anyio.current_time()
            elif anyio.current_time() - since >= self._stall_after:
                where = now.waits_for or "nothing that is known"
                self._stop(StalledError(f"nothing moved for {self._stall_after:g} s; it waits for {where}"))
                return
            self._beat(asdict(now.cursor))


def vitals(snapshot: RunSnapshot) -> Vitals:
    """How a run stands."""
    tally = snapshot.tally
    mark: list[float] = [tally.read, tally.written, tally.dropped, tally.dead, tally.tokens_in]
    for node in snapshot.nodes:
        mark += [node.records_in, node.records_out, node.batches, node.retries, *node.aggregate.values()]
    return Vitals(
        tuple(mark),
        Cursor(tally.read, tally.written, tally.dead),
        snapshot.waits_for,
        excused=any(node.waiting in (Waiting.RETRY, Waiting.OUTAGE) for node in snapshot.nodes),
    )
