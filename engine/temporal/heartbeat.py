"""The heartbeat of an activity, which beats during progress and stops stalled work.

A heartbeat on a timer would keep stuck work alive. So each beat checks for progress since the last one; a run
that waits for an outage to end counts as alive, since `outage_limit` bounds that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import anyio

from engine.contract.component import Kind
from engine.errors import OutageError, StalledError
from engine.flow.stats import NodeSnapshot, RunSnapshot, Waiting
from engine.temporal.messages import Trouble

Mark = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The payload of a heartbeat, as a hint for users; the resume position is in the ledger."""

    read: int = 0
    written: int = 0
    dead: int = 0
    trouble: Trouble | None = None
    v: int = 2


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of some work.

    Args:
        mark: numbers of which at least one changes with every progress.
        waits_for: human-readable; "" when unknown.
        excused: it waits for something with its own time limit.
    """

    mark: Mark
    cursor: Cursor = field(default_factory=Cursor)
    waits_for: str = ""
    excused: bool = False


async def beat_while_moving(
    look: Callable[[], Progress],
    beat: Callable[[Mapping[str, Any]], None],
    stop: Callable[[StalledError], None],
    *,
    every: float,
    stall_after: float,
) -> None:
    """Beat until the work stalls. Short work needs no beat, and each beat may cost money.

    Args:
        look: returns the progress of the work.
        beat: called with the cursor, as a mapping, at every beat.
        stop: called once, after too long without progress.
        every: seconds before the first beat, and between two of them.
        stall_after: seconds without any progress.
    """
    seen, since = look().mark, anyio.current_time()
    while True:
        await anyio.sleep(every)
        now = look()
        if now.mark != seen or now.excused:
            seen, since = now.mark, anyio.current_time()
        elif anyio.current_time() - since >= stall_after:
            where = now.waits_for or "an unknown cause"
            stop(StalledError(f"no progress for {stall_after:g} s; waiting for {where}"))
            return
        beat(asdict(now.cursor))


def progress_of(snapshot: RunSnapshot, trouble: Trouble | None = None) -> Progress:
    """Return the progress of a run."""
    tally = snapshot.tally
    mark: list[float] = [tally.read, tally.written, tally.dropped, tally.dead, tally.tokens_in]
    for node in snapshot.nodes:
        mark += [node.records_in, node.records_out, node.batches, node.retries, *node.aggregate.values()]
    return Progress(
        tuple(mark),
        Cursor(tally.read, tally.written, tally.dead, trouble),
        snapshot.waits_for,
        excused=snapshot.stuck is not None,
    )


class OutageTimer:
    """Measures outages across several parts of a chunk, each shorter than the limit.

    Each node is measured separately, since writes of one sink say nothing about another.

    Args:
        before: durations in seconds when this part began, by node.
        limit: seconds after which waiting ends.
    """

    def __init__(self, before: Mapping[str, float], limit: float) -> None:
        self._limit = limit
        began = anyio.current_time()
        self._began = began
        self._courses = {name: _Course(seconds, began) for name, seconds in before.items()}

    @property
    def outages(self) -> dict[str, float]:
        """Total seconds of ongoing outages over all parts, by node."""
        now = anyio.current_time()
        every = {name: course.lasted(now) for name, course in self._courses.items()}
        return {name: seconds for name, seconds in every.items() if seconds}

    @property
    def waited(self) -> float:
        """Total seconds of the longest outage that this part has waited for; 0 without one."""
        now = anyio.current_time()
        return max((course.lasted(now) for course in self._courses.values() if course.seen), default=0.0)

    def look(self, snapshot: RunSnapshot) -> OutageError | None:
        """Observe the run; return the error to end it with if an outage exceeds its limit.

        An outage that began in this part ends the run without this timer.
        """
        now = anyio.current_time()
        for node in snapshot.every_node:
            course = self._courses.setdefault(node.name, _Course(0.0, self._began))
            course.look(node, now)
            lasted = course.lasted(now)
            if course.before and node.waiting is Waiting.OUTAGE and lasted >= self._limit:
                message = f"{node.name!r} made no progress for {lasted:.0f} s; last answer: {node.note}"
                return OutageError(message, node=node.name)
        return None


@dataclass(slots=True)
class _Course:
    """The state of one node: `before` as for the timer, `since` when its outage may have begun in this part.

    `seen`: it was waiting for an outage to end, and nothing has succeeded since.
    """

    before: float
    since: float
    done: int = 0
    moved: bool = False
    seen: bool = False

    def look(self, node: NodeSnapshot, now: float) -> None:
        # not dead records: each part counts known ones again without calling the service
        done = node.batches if node.kind is Kind.SOURCE else node.records_out + node.dropped
        if done != self.done:
            # the journal may answer too, so the first success proves nothing
            if self.seen or self.moved or not self.before:
                self.before, self.since, self.seen = 0.0, now, False
            self.done, self.moved = done, True
        self.seen = self.seen or node.waiting is Waiting.OUTAGE

    def lasted(self, now: float) -> float:
        return self.before + (now - self.since if self.seen else 0.0)
