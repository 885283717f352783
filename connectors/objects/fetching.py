"""Read objects concurrently, retry each alone, and determine whether a failure is its own.

An object that fails is no reason to stop as long as others get through; when nothing gets through, it is an
outage or a mistake in the connection, and no object is to blame. So a failure is a *suspect* until another
object was read after it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import anyio

from connectors.objects.limiter import AdaptiveLimiter
from connectors.objects.listed import FileRecord, ListedObject, ObjectRefusedError, ObjectStore
from engine.contract.component import Retry
from engine.errors import ComponentError, FatalError, RecordError, TransientError

__all__ = ["ObjectFetcher", "Outcome", "Suspect"]

THROTTLED_TRIES = 4
"""How many times as many tries an object has while all the server says is that it has too much to do."""

GIVE_UP_AFTER = 64
"""Objects that fail in a row, after which no more is asked unless a probe shows that others get through."""

AWAY_AFTER = 4
"""Objects that fail in a row, at least, before a server's hint to wait is followed in full."""

MAX_HINT = 0.5
"""Seconds of a Retry-After that are waited for while others get through: fewer are asked for at once instead.

MinIO asks for a minute whenever it has one request too many.
"""

PROBES = 3
PROBED_PAGES = 3
PROBED_PER_PAGE = 4


@dataclass(frozen=True, slots=True)
class Suspect:
    """An object that could not be read, by its own fault or because nothing gets through.

    Attributes:
        seen: how many objects had been read when it last failed.
        tries: how often it was asked for.
        exhausted: it has had all its tries.
        overshadowed: nothing else was read until its last try, so an outage may have taken all of them.
    """

    error: TransientError | ObjectRefusedError
    seen: int
    tries: int
    exhausted: bool
    overshadowed: bool = False

    def as_record(self) -> RecordError:
        """The failure of this object alone."""
        if isinstance(self.error, ObjectRefusedError):
            return self.error.as_record()
        return RecordError(
            f"{self.error} ({self.tries} attempts, while others were read)", kind="ObjectUnreadable"
        )


Outcome = FileRecord | ComponentError | Suspect

T = TypeVar("T")


class ObjectFetcher:
    """Reads the objects of one source.

    Args:
        concurrency: requests at once, at first; `most`: at most. Fewer while the server has too much to do.
    """

    def __init__(
        self, store: ObjectStore, concurrency: int, retry: Retry | None, *, most: int | None = None
    ) -> None:
        self._store = store
        self._retry = retry
        self.limiter = AdaptiveLimiter(concurrency, most or concurrency)
        self._slots = self.limiter.slots
        self._probing = anyio.Lock()
        self._successes = 0
        self._failures_in_a_row = 0
        self._readable: ListedObject | None = None

    def begin(self) -> None:
        """Reading starts, or starts again after an outage."""
        self._failures_in_a_row = 0

    async def fetch(self, found: ListedObject) -> Outcome:
        """One record, or why there is none; as a value, so that the objects before it still go out."""
        return await self.attempt(found, self._store.read)

    async def attempt(
        self, found: ListedObject, read: Callable[[ListedObject], Awaitable[T]]
    ) -> T | ComponentError | Suspect:
        """What `read` makes of an object, tried as often as may be, or why that cannot be had."""
        tries, seen, first = 0, self._successes, self._successes
        while True:
            tries, before = tries + 1, seen
            try:
                # entering the limiter costs a turn of the event loop, also where a slot is free
                self._slots.acquire_nowait()
            except anyio.WouldBlock:
                await self._slots.acquire()
            asked_after = self._successes
            try:
                failure = await self._try(found, read)
            finally:
                self._slots.release()
            seen = self._successes  # only what is read after the last try tells that the server is there
            if isinstance(failure, ObjectRefusedError):
                return Suspect(failure, seen, tries, exhausted=True)
            if not isinstance(failure, TransientError):
                return failure
            # of the first requests, a busy server may refuse most before one of the others is answered
            self._failures_in_a_row += tries == (2 if failure.throttled else 1)
            retry = self._retry
            allowed = 1 if retry is None else retry.attempts
            if retry is not None and (failure.throttled or isinstance(failure.__cause__, TimeoutError)):
                self.limiter.slow_down()
            if retry is not None and failure.throttled:
                allowed *= THROTTLED_TRIES
            exhausted = retry is not None and tries >= allowed
            if retry is None or exhausted or await self._nothing_gets_through():
                return Suspect(failure, seen, tries, exhausted, overshadowed=asked_after == first)
            # before its first try an object has seen nothing, whatever else was read
            await retry.wait(tries, self._with_patience(failure, others_read=tries == 1 or seen > before))

    def _with_patience(self, failure: TransientError, *, others_read: bool) -> TransientError:
        hint = failure.retry_after
        away = self._failures_in_a_row >= max(AWAY_AFTER, self._slots.total_tokens) and not others_read
        if hint is None or hint <= MAX_HINT or away:
            return failure
        return TransientError(str(failure), retry_after=MAX_HINT, throttled=True)

    async def _try(
        self, found: ListedObject, read: Callable[[ListedObject], Awaitable[T]]
    ) -> T | ComponentError:
        try:
            record = await read(found)
        except RecordError as error:
            self._failures_in_a_row = 0  # a verdict is an answer too: the server is there
            return error
        except ComponentError as error:
            return error
        self._succeeded(found)
        return record

    async def _nothing_gets_through(self) -> bool:
        if self._failures_in_a_row < GIVE_UP_AFTER:
            return False
        async with self._probing:
            # another object may have asked meanwhile
            if self._failures_in_a_row >= GIVE_UP_AFTER and await self.others_get_through(()):
                self._failures_in_a_row = 0
        return self._failures_in_a_row >= GIVE_UP_AFTER

    def read_some(self, found: ListedObject) -> None:
        """A part of an object was read outside of `attempt`: the server is there."""
        self._succeeded(found)

    def _succeeded(self, found: ListedObject) -> None:
        self._successes += 1
        self._failures_in_a_row = 0
        if found.size:  # an empty object has no first byte to ask for
            self._readable = found
        self.limiter.succeeded(found.size)

    def cleared(self, suspects: Sequence[Suspect]) -> bool:
        """Return whether others were read after each of these was refused, so that it is their own fault.

        Of errors that may pass, a probe decides: what was under way when an outage began may end after it.
        """
        return all(
            isinstance(one.error, ObjectRefusedError) and self._successes > one.seen for one in suspects
        )

    @property
    def successes(self) -> int:
        """How many objects, or parts of them, were read so far."""
        return self._successes

    async def others_get_through(self, failed: Collection[str]) -> bool:
        """Ask for the first byte of an object that was read, or of some that are listed.

        Args:
            failed: keys that it makes no sense to ask for.
        """
        if self._retry is None:
            return False
        if (known := self._readable) is not None:
            # one probe may meet the fault that it looks for
            for _ in range(PROBES):
                if await self._readable_now(known):
                    return True
                if self._readable is not known:
                    break
            else:
                if known.key not in failed:
                    return False
        try:
            async with aclosing(self._store.pages()) as pages:
                number = 0
                async for page in pages:
                    others = [found for found in page if found.size and found.key not in failed]
                    step = max(1, len(others) // PROBED_PER_PAGE)
                    for found in others[::step][:PROBED_PER_PAGE]:
                        if await self._readable_now(found):
                            return True
                    number += 1
                    if number == PROBED_PAGES:
                        break
        except (TransientError, FatalError):
            return False  # nothing gets through at all
        return False

    async def _readable_now(self, found: ListedObject) -> bool:
        try:
            async with self._slots:
                await self._store.probe(found.key)
        except ComponentError as error:
            if found is self._readable and isinstance(error, RecordError | ObjectRefusedError):
                self._readable = None  # deleted or closed since it was read, which says nothing of others
            return False
        self._readable = found
        return True
