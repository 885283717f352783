"""Bodies that resume after a broken connection."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from connectors.objects.content import ObjectBody
from connectors.objects.fetching import ObjectFetcher, is_exhausted
from connectors.objects.listed import ListedObject, ObjectStore
from engine.contract.retry import Retry
from engine.errors import TransientError


class ServerAwayError(TransientError):
    """An object used all its attempts while nothing else could be read, and nothing else can be read now."""


@dataclass(frozen=True, slots=True)
class ResumingBodies:
    """Opens one object. A body that breaks off is requested again from its next byte on.

    Args:
        retry: retries in a row without receiving a byte; None for none.
    """

    store: ObjectStore
    fetcher: ObjectFetcher
    found: ListedObject
    retry: Retry | None

    @asynccontextmanager
    async def open(self, start: int, stop: int | None) -> AsyncGenerator[ObjectBody, None]:
        """Open the bytes from `start` up to `stop`; see `connectors.objects.content.OpenBody`."""
        async with AsyncExitStack() as stack:
            body = _ResumingBody(self, stack, start, stop)
            await body.reopen()
            yield body


class _ResumingBody:
    def __init__(self, bodies: ResumingBodies, stack: AsyncExitStack, start: int, stop: int | None) -> None:
        self._of = bodies
        self._stack = stack
        self._at, self._stop = start, stop
        self._body: ObjectBody | None = None
        self._tries = self._earlier = self._least = 0
        self._before = bodies.fetcher.reads
        self._fresh = False
        self.content_type: str | None = None
        self.content_encoding: str | None = None
        self.size = -1

    async def reopen(self) -> ObjectBody:
        """Reopen at the next byte."""
        while True:
            try:
                opening = self._of.store.open(self._of.found, self._at, self._stop)
                body = await self._stack.enter_async_context(opening)
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
                    self._of.fetcher.answered(self._earlier + self._tries)
                self._of.fetcher.read_some(self._of.found)
                self._tries = self._earlier = self._least = 0
                self._fresh = False
                self._at += len(data)
            return data

    async def _failed(self, error: TransientError) -> None:
        """Back off before another attempt, or raise the error if none is due."""
        retry, fetcher = self._of.retry, self._of.fetcher
        if not self._tries and not self._earlier:
            self._before = fetcher.reads
        self._tries += 1
        if retry is not None and not is_exhausted(retry, error, self._tries, self._least):
            await retry.wait(self._tries, error)
            return
        if self._earlier:
            raise error
        further = fetcher.further_tries(self._tries, self._before)
        if fetcher.reads.answered != self._before.answered:
            if further <= 0:
                raise error
        elif not await fetcher.others_get_through({self._of.found.key}):
            # the handler must not probe again: the server may be back by then
            raise ServerAwayError(
                str(error), retry_after=error.retry_after, throttled=error.throttled
            ) from error
        self._earlier, self._tries, self._least = self._tries, 0, further
