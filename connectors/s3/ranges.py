"""Read a large object in concurrent ranges: servers limit the speed of each connection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import anyio

from connectors.objects.listed import ListedObject
from connectors.s3.errors import is_unsupported
from connectors.s3.resolver import plain_etag
from connectors.s3.streams import S3Body, S3ObjectStreams
from engine.contract.retry import Retry
from engine.errors import ComponentError, TransientError

PARALLEL_FROM = 32 * 1024 * 1024
"""Minimum size of a large object, in bytes."""

RANGE_BYTES = 8 * 1024 * 1024
AT_ONCE = 4
"""Number of ranges per object."""


class Arrived(NamedTuple):
    """The bytes of an object, and the answer whose headers describe it."""

    data: bytes
    answer: Mapping[str, Any]


class ParallelRanges:
    """Reads the large objects of one bucket whole.

    Every range must be of the listed version and of the requested length. One that breaks off is requested
    again from its next byte on.

    Args:
        retry: retries of a range in a row without receiving a byte; None for none.
        max_bytes: maximum size; larger objects are not read in ranges.
    """

    def __init__(self, streams: S3ObjectStreams, retry: Retry | None, *, max_bytes: int) -> None:
        self._streams = streams
        self._retry = retry
        self._max = max_bytes
        self._supported = True

    def apply_to(self, found: ListedObject) -> bool:
        """Return whether to read an object in ranges. Without an ETag they could be of different versions."""
        return self._supported and bool(found.etag) and PARALLEL_FROM <= found.size <= self._max

    async def read(self, uri: str, found: ListedObject) -> Arrived | None:
        """Read an object; return None if the server sends no ranges of its stored bytes.

        Raises:
            RecordError, ObjectRefusedError, TransientError, FatalError: as for `S3FileReader.read_file`.
        """
        try:
            return await self._read(uri, found)
        except TransientError as error:
            if not is_unsupported(error):
                raise
        self._supported = False
        return None

    async def _read(self, uri: str, found: ListedObject) -> Arrived | None:
        async with self._streams.open(uri, found, 0, RANGE_BYTES) as first:
            assert isinstance(first, S3Body)
            self._supported = first.is_part
            # a proxy compresses each range separately
            if not first.is_part or first.content_encoding or not plain_etag(first.answer.get("ETag")):
                return None
            starts = range(0, found.size, RANGE_BYTES)
            ranges = [_Range(start, min(start + RANGE_BYTES, found.size)) for start in starts]
            await self._read_all(uri, found, ranges, first)
        return Arrived(b"".join([piece for one in ranges for piece in one.pieces]), first.answer)

    async def _read_all(self, uri: str, found: ListedObject, ranges: list[_Range], first: S3Body) -> None:
        failures: list[ComponentError] = []
        left = iter(ranges)

        async def work(left: Iterator[_Range], body: S3Body | None = None) -> None:
            try:
                for one in left:
                    await self._read_range(uri, found, one, body)
                    body = None
            except ComponentError as error:
                failures.append(error)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(work, left, first)  # it reads the first range, whose body is open
            for _ in range(AT_ONCE - 1):
                group.start_soon(work, left)
        if failures:
            raise failures[0]

    async def _read_range(self, uri: str, found: ListedObject, one: _Range, body: S3Body | None) -> None:
        tries = 0
        while one.at < one.stop:
            at = one.at
            try:
                if body is not None:
                    await one.take(body)
                else:
                    async with self._streams.open(uri, found, one.at, one.stop) as opened:
                        assert isinstance(opened, S3Body)
                        await one.take(opened)
            except TransientError as error:
                body, tries = None, 1 if one.at > at else tries + 1
                if self._retry is None or self._retry.outwaited or tries >= self._retry.attempts:
                    raise
                await self._retry.wait(tries, error)


class _Range:
    """A range of an object: the missing bytes from `at` up to `stop`, and the received pieces."""

    def __init__(self, start: int, stop: int) -> None:
        self.at, self.stop = start, stop
        self.pieces: list[bytes] = []

    async def take(self, body: S3Body) -> None:
        """Read the rest from a body. Raises TransientError if it is something else."""
        if not body.is_part or not plain_etag(body.answer.get("ETag")):
            raise TransientError(f"{body.where}: a range was asked for, and something else arrived")
        while piece := await body.read():
            if len(piece) > self.stop - self.at:
                raise TransientError(f"{body.where}: more than the range arrived")
            self.pieces.append(piece)
            self.at += len(piece)
        if self.at < self.stop:
            raise TransientError(f"{body.where}: {self.stop - self.at:,} bytes of the range are missing")
