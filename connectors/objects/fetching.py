"""Read objects concurrently, retry each alone, and determine whether a failure is its own.

A failing object does not stop the run while others can be read; if nothing can be read, there is an outage or
a mistake in the connection, and no object is to blame. So a failed object is a *suspect* until another object
is read after it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import anyio

from connectors.objects.limiter import AdaptiveLimiter
from connectors.objects.listed import FileRecord, ListedObject, ObjectRefusedError, ObjectStore
from engine.contract.retry import Retry
from engine.errors import ComponentError, FatalError, RecordError, TransientError

THROTTLED_TRIES = 4
"""Factor on an object's attempts while the server only reports overload."""

GIVE_UP_AFTER = 64
"""Failed objects in a row after which reading stops unless a probe shows that others can be read."""

AWAY_AFTER = 4
"""Minimum failed objects in a row before a server's Retry-After is obeyed in full."""

MAX_HINT = 0.5
"""Maximum seconds to wait for a Retry-After while other objects can be read: concurrency is reduced instead.

MinIO asks for a minute whenever there is one request too many.
"""

MAX_LUCK = 1e-10
"""Maximum probability that every attempt at a readable object fails before it becomes a dead letter.

If 7 % of the requests fail, five attempts all fail at one object in 600,000, ten at one in 350 billion.
"""

MAX_EXTENSION = 4
"""Maximum factor on an object's attempts while its failures may be bad luck."""

PROBES, MAX_PROBES = 3, 9
MAX_PROBE_LUCK = 1e-6
"""Maximum probability that all probes of a readable object fail, as far as `MAX_PROBES` allows."""

PROBED_PAGES = 3
PROBED_PER_PAGE = 4


class Reads(NamedTuple):
    """Answers, and the failed attempts before them.

    Those failures were not the objects' fault, so they show how often a readable object fails by bad luck.
    """

    answered: int = 0
    failed: int = 0

    def since(self, earlier: Reads) -> Reads:
        """Return the reads after `earlier`."""
        return Reads(self.answered - earlier.answered, self.failed - earlier.failed)

    @property
    def failing(self) -> float:
        """The share of attempts at readable objects that fail."""
        return self.failed / (max(self.answered, 1) + self.failed)


NOTHING_READ = Reads()


@dataclass(frozen=True, slots=True)
class Suspect:
    """An object that could not be read, through its own fault or because nothing can be read.

    Attributes:
        begun: number of reads that had begun when it last failed.
        tries: number of attempts, in all rounds.
        exhausted: all attempts have been used.
        overshadowed: nothing else was read until its last attempt, so an outage may have failed all of them.
        before: what had been read before its first attempt.
        final: no more attempts are due: it was refused, or retried after an outage or bad luck.
    """

    error: TransientError | ObjectRefusedError
    begun: int
    tries: int
    exhausted: bool
    overshadowed: bool = False
    before: Reads = NOTHING_READ
    final: bool = False

    def as_record(self) -> RecordError:
        """Return the failure of this object alone."""
        return own_failure(self.error, self.tries)


Outcome = FileRecord | ComponentError | Suspect

T = TypeVar("T")


class ObjectFetcher:
    """Reads the objects of one source.

    Args:
        concurrency: initial concurrent requests, and `most` the maximum. Reduced while the server is
            overloaded.
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
        self.reads = Reads()
        self._begun = self._newest_read = 0
        self._failures_in_a_row = 0
        self._readable: ListedObject | None = None

    def begin(self) -> None:
        """Start reading, or restart after an outage."""
        self._failures_in_a_row = 0

    async def fetch(self, found: ListedObject, least: int = 1) -> Outcome:
        """Return a record or its failure; as a value, so that earlier objects are still passed on."""
        return await self.attempt(found, self._store.read, least)

    async def attempt(
        self, found: ListedObject, read: Callable[[ListedObject], Awaitable[T]], least: int = 1
    ) -> T | ComponentError | Suspect:
        """Return the result of `read` after up to the allowed attempts (at least `least`), or the failure."""
        tries, seen, first = 0, self._successes, self._successes
        before = self.reads
        while True:
            tries, seen_before = tries + 1, seen
            try:
                # entering the limiter costs a turn of the event loop, even if a slot is free
                self._slots.acquire_nowait()
            except anyio.WouldBlock:
                await self._slots.acquire()
            asked_after, reductions = self._successes, self.limiter.reductions
            try:
                failure = await self._try(found, read)
            finally:
                self._slots.release()
            seen = self._successes  # later reads prove that the server is available
            if isinstance(failure, ObjectRefusedError):
                return Suspect(failure, self._begun, tries, exhausted=True, final=True)
            if not isinstance(failure, TransientError):
                self.answered(tries - 1)
                return failure
            # a busy server may refuse most of the first requests before it answers one
            self._failures_in_a_row += tries == (2 if failure.throttled else 1)
            retry = self._retry
            if retry is not None and (failure.throttled or isinstance(failure.__cause__, TimeoutError)):
                self.limiter.slow_down(reductions)
            exhausted = retry is not None and is_exhausted(retry, failure, tries, least)
            if retry is None or exhausted or await self._nothing_gets_through():
                overshadowed = asked_after == first
                return Suspect(failure, self._begun, tries, exhausted, overshadowed, before)
            # before its first attempt an object has seen nothing
            others_read = tries == 1 or seen > seen_before
            await retry.wait(tries, self._with_patience(failure, others_read=others_read))

    async def again(
        self, failed: Suspect, fetch: Callable[[int], Awaitable[T | ComponentError | Suspect]]
    ) -> T | ComponentError | Suspect:
        """Return the outcome of further attempts at a doubtful object; `fetch` takes their least number."""
        outcome = await fetch(self.further_tries(failed.tries, failed.before))
        if isinstance(outcome, Suspect):
            return replace(outcome, tries=failed.tries + outcome.tries, final=True)
        self.reads = self.reads._replace(failed=self.reads.failed + failed.tries)
        return outcome

    def is_doubtful(self, suspect: Suspect) -> bool:
        """Return whether an outage or bad luck may have failed all attempts, so that more are due."""
        if suspect.final:
            return False
        return suspect.overshadowed or not suspect.exhausted or self.is_unlucky(suspect)

    def is_unlucky(self, suspect: Suspect) -> bool:
        """Return whether bad luck may have failed all attempts while others were read: no probe is needed."""
        if suspect.final or suspect.overshadowed or not suspect.exhausted:
            return False
        return self.further_tries(suspect.tries, suspect.before) > 0

    def further_tries(self, tries: int, before: Reads) -> int:
        """Return how many more attempts must fail before bad luck is too improbable to be the reason.

        Args:
            tries: number of failed attempts.
            before: what had been read before the first of them.
        """
        if self._retry is None or self._retry.attempts == 1:
            return 0
        failing = max(self.reads.failing, self.reads.since(before).failing)
        return min(_attempts_for(MAX_LUCK, failing), MAX_EXTENSION * tries) - tries

    def _with_patience(self, failure: TransientError, *, others_read: bool) -> TransientError:
        hint = failure.retry_after
        away = self._failures_in_a_row >= max(AWAY_AFTER, self._slots.total_tokens) and not others_read
        if hint is None or hint <= MAX_HINT or away:
            return failure
        return TransientError(str(failure), retry_after=MAX_HINT, throttled=True)

    async def _try(
        self, found: ListedObject, read: Callable[[ListedObject], Awaitable[T]]
    ) -> T | ComponentError:
        self._begun = begun = self._begun + 1
        try:
            record = await read(found)
        except RecordError as error:
            self._failures_in_a_row = 0  # a refusal is an answer too: the server is available
            return error
        except ComponentError as error:
            return error
        self._newest_read = max(self._newest_read, begun)
        self._succeeded(found)
        return record

    async def _nothing_gets_through(self) -> bool:
        if self._failures_in_a_row < GIVE_UP_AFTER:
            return False
        async with self._probing:
            # another object may have probed meanwhile
            if self._failures_in_a_row >= GIVE_UP_AFTER and await self.others_get_through(()):
                self._failures_in_a_row = 0
        return self._failures_in_a_row >= GIVE_UP_AFTER

    def read_some(self, found: ListedObject) -> None:
        """Record that part of an object was read outside of `attempt`: the server is available."""
        self._succeeded(found)

    def answered(self, failed: int) -> None:
        """Count an answer and the failed attempts before it."""
        self.reads = Reads(self.reads.answered + 1, self.reads.failed + failed)

    def _succeeded(self, found: ListedObject) -> None:
        self._successes += 1
        self._failures_in_a_row = 0
        if self._retry is not None:
            self._retry.succeeded()
        if found.size:  # an empty object has no first byte to probe
            self._readable = found
        self.limiter.succeeded(found.size)

    def cleared(self, suspects: Sequence[Suspect]) -> bool:
        """Return whether reads that began after each of these failed succeeded, so the fault is their own."""
        return all(one.exhausted and self._newest_read > one.begun for one in suspects)

    @property
    def retries(self) -> bool:
        """Return whether failed reads are retried, so that an outage is waited for."""
        return self._retry is not None

    async def others_get_through(self, failed: Collection[str]) -> bool:
        """Probe the first byte of an object that was read, or of some that are listed.

        Args:
            failed: keys not to probe.
        """
        if self._retry is None:
            return False
        if (known := self._readable) is not None:
            # a single probe may hit the fault it tests for
            for _ in range(max(PROBES, min(_attempts_for(MAX_PROBE_LUCK, self.reads.failing), MAX_PROBES))):
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
            return False  # nothing can be read at all
        return False

    async def _readable_now(self, found: ListedObject) -> bool:
        try:
            async with self._slots:
                self._begun = begun = self._begun + 1
                await self._store.probe(found.key)
        except ComponentError as error:
            if found is self._readable and isinstance(error, RecordError | ObjectRefusedError):
                self._readable = None  # it may have been deleted, which says nothing about others
            return False
        self._readable = found
        self._newest_read = max(self._newest_read, begun)
        if self._retry is not None:
            self._retry.succeeded()
        return True


def own_failure(error: TransientError | ObjectRefusedError, tries: int) -> RecordError:
    """Return the failure of one object alone, after this number of attempts."""
    if isinstance(error, ObjectRefusedError):
        return error.as_record()
    return RecordError(f"{error} ({tries} attempts, while others were read)", kind="ObjectUnreadable")


def is_exhausted(retry: Retry, failure: TransientError, tries: int, least: int) -> bool:
    """Return whether all attempts, and at least `least`, have been used, or an outage was waited out."""
    return retry.outwaited or tries >= max(
        retry.attempts * (THROTTLED_TRIES if failure.throttled else 1), least
    )


def _attempts_for(luck: float, failing: float) -> int:
    """Return the number of attempts that all fail by bad luck with at most this probability."""
    return math.ceil(math.log(luck, failing)) if failing else 0
