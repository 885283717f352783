"""Bodies that resume after a broken connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from connectors.objects.content import ObjectBody
from connectors.objects.fetching import ObjectFetcher, Reads, is_exhausted
from connectors.objects.listed import ListedObject, ObjectStore
from engine.contract.retry import Retry
from engine.errors import TransientError

__all__ = ["ResumingBodies", "ServerAwayError"]


class ServerAwayError(TransientError):
    """An object used all its attempts while nothing else could be read, and nothing else can be read now."""


class ResumingBodies:
    """Opens one object. A body that breaks off is requested again from its next byte on.

    Args:
        retry: retries in a row without receiving a byte; None for none.
    """

    def __init__(
        self, store: ObjectStore, fetcher: ObjectFetcher, found: ListedObject, retry: Retry | None
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._found = found
        self._retry = retry

    @asynccontextmanager
    async def open(self, start: int, stop: int | None) -> AsyncGenerator[ObjectBody, None]:
        """Open the bytes from `start` up to `stop`; see `connectors.objects.content.OpenBody`."""
        async with AsyncExitStack() as stack:
            body = _ResumingBody(self, stack, start, stop)
            await body.reopen()
            yield body

    async def opened(self, stack: AsyncExitStack, start: int, stop: int | None) -> ObjectBody:
        """Open a body of the store, closed by `stack`."""
        return await stack.enter_async_context(self._store.open(self._found, start, stop))

    def arrived(self) -> None:
        """Record that bytes of the object have arrived."""
        self._fetcher.read_some(self._found)

    def answered(self, failed: int) -> None:
        """Count an answer and the failed attempts before it."""
        self._fetcher.answered(failed)

    async def wait(self, tries: int, least: int, error: TransientError) -> bool:
        """Back off, or return False if all attempts, and at least `least`, have been used."""
        if self._retry is None or is_exhausted(self._retry, error, tries, least):
            return False
        await self._retry.wait(tries, error)
        return True

    @property
    def reads(self) -> Reads:
        """What the source has read so far, of any object."""
        return self._fetcher.reads

    async def further_tries(self, error: TransientError, tries: int, before: Reads) -> int | None:
        """Return the least number of further attempts, None for none; `before`: reads before the first.

        Raises:
            ServerAwayError: other objects cannot be read either.
        """
        further = self._fetcher.further_tries(tries, before)
        if self.reads.answered != before.answered:
            return further if further > 0 else None
        if not await self._fetcher.others_get_through({self._found.key}):
            # the handler must not probe again: the server may be back by then
            raise ServerAwayError(
                str(error), retry_after=error.retry_after, throttled=error.throttled
            ) from error
        return further


class _ResumingBody:
    def __init__(self, bodies: ResumingBodies, stack: AsyncExitStack, start: int, stop: int | None) -> None:
        self._bodies = bodies
        self._stack = stack
        self._at, self._stop = start, stop
        self._body: ObjectBody | None = None
        self._tries = self._earlier = self._least = 0
        self._before = bodies.reads
        self._fresh = False
        self.content_type: str | None = None
        self.content_encoding: str | None = None
        self.size = -1

    async def reopen(self) -> ObjectBody:
        """Reopen at the next byte."""
        while True:
            try:
                body = await self._bodies.opened(self._stack, self._at, self._stop)
            except TransientError as error:
                await self._failed(error)
                continue
            self._body, self.size, self._fresh = body, body.size, True
            # an empty body past the end has neither
            self.content_type = body.content_type or self.content_type
            self.content_encoding = body.content_encoding or self.content_encoding
            return body

    async def read(self) -> bytes:
        while True:
            body = self._body or await self.reopen()
            try:
                data = await body.read()
            except TransientError as error:
                self._body = None
                await self._stack.aclose()
                await self._failed(error)
                continue
            if data:
                if self._fresh:
                    self._bodies.answered(self._earlier + self._tries)
                self._bodies.arrived()
                self._tries = self._earlier = self._least = 0
                self._fresh = False
                self._at += len(data)
            return data

    async def _failed(self, error: TransientError) -> None:
        if not self._tries and not self._earlier:
            self._before = self._bodies.reads
        self._tries += 1
        if await self._bodies.wait(self._tries, self._least, error):
            return
        if self._earlier:
            raise error
        further = await self._bodies.further_tries(error, self._tries, self._before)
        if further is None:
            raise error
        self._earlier, self._tries, self._least = self._tries, 0, further
