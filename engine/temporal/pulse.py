"""The heartbeat of an activity: it beats while the work gets on, and stops work that does not.

A heartbeat that went on by itself would keep wedged work alive for ever. So each beat looks at what has been
done since the last one; a run that waits for an outage to end counts as alive, since `outage_limit` bounds
that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import anyio

from engine.errors import OutageError, StalledError
from engine.stats import NodeSnapshot, RunSnapshot, Waiting

__all__ = ["Cursor", "OutageTimer", "Pulse", "Vitals", "vitals"]

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
        excused=any(node.waiting in (Waiting.RETRY, Waiting.OUTAGE) for node in _every(snapshot)),
    )


class OutageTimer:
    """How long an outage lasts that a chunk waits for in several parts, each of them shorter than its limit.

    Args:
        before: seconds for which it had lasted when this part began.
        limit: seconds after which it is not waited for any longer.
    """

    def __init__(self, before: float, limit: float) -> None:
        self._before = before
        self._limit = limit
        self._began = anyio.current_time()
        self._written = 0
        self._moved = False
        self._seen = False

    @property
    def lasted(self) -> float:
        """Seconds in this part; 0 when there is none."""
        return anyio.current_time() - self._began if self._seen else 0.0

    def look(self, snapshot: RunSnapshot) -> OutageError | None:
        """Take note of how the run stands; the error to end it with when the outage is longer than its limit.

        One that began in this part ends the run by itself.
        """
        nodes = _every(snapshot)
        trying = any(node.waiting is Waiting.RETRY for node in nodes)
        waiting = [node for node in nodes if node.waiting is Waiting.OUTAGE]
        written, self._written = self._written, snapshot.tally.written
        before, self._moved = self._moved, self._written != written
        # What the ledger knows appears at the beginning of each part, and of two sinks the one that answers
        # is written to again until the other one holds it up: neither is the end of an outage.
        if self._moved and (self._seen or (before and not waiting and not trying)):
            self._before, self._began, self._seen = 0.0, anyio.current_time(), False
        self._seen = self._seen or bool(waiting)
        lasted = self._before + self.lasted
        if not self._before or not waiting or lasted < self._limit:
            return None
        message = f"{waiting[0].name!r} could not go on for {lasted:.0f} s; last answer: {waiting[0].note}"
        return OutageError(message, node=waiting[0].name)


def _every(snapshot: RunSnapshot) -> Sequence[NodeSnapshot]:
    return [*snapshot.nodes, *([snapshot.forward] if snapshot.forward is not None else [])]
