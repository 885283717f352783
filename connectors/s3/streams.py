"""Read objects as streams of bytes, from any byte on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from connectors.objects.content import StoredBody
from connectors.objects.listed import ListedObject
from connectors.s3.client import S3Client
from connectors.s3.errors import s3_errors
from connectors.s3.reader import VersionedGets, check_version, is_partial, part_of
from engine.errors import RecordError, TransientError

PIECE = 256 * 1024


class S3ObjectStreams:
    """Opens objects of one bucket, only in the listed version."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._gets = VersionedGets()

    @asynccontextmanager
    async def open(
        self, uri: str, found: ListedObject, start: int, stop: int | None
    ) -> AsyncGenerator[S3Body | StoredBody, None]:
        """Open an object's bytes from `start` up to `stop` (exclusive; None: to the end).

        Raises:
            RecordError, ObjectRefusedError, TransientError, FatalError: as for `S3FileReader.read_file`.
        """
        if start and 0 <= found.size <= start:
            yield StoredBody(b"", None, found.size)
            return
        arguments = {"Bucket": self._bucket, "Key": found.key}
        if start or (stop is not None and found.size):
            arguments["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        answer = await self._gets.send(found.etag, partial(self._get, uri, found, arguments))
        # leaving the block closes the connection of a body that was not read to the end
        async with answer["Body"] as body:
            yield S3Body(body, answer, self._bucket, found, start, stop)

    async def _get(
        self, uri: str, found: ListedObject, arguments: dict[str, str], conditions: dict[str, str]
    ) -> Mapping[str, Any]:
        with s3_errors(self._bucket, f"reading {found.key!r}", of_object=True):
            answer = await self._client.get_object(**arguments, **conditions)
        try:
            check_version(uri, found.etag, answer)
        except RecordError:
            answer["Body"].close()
            raise
        return answer


class S3Body:
    """A streamed body. Ending before or after the announced or listed length is an error.

    Attributes:
        answer: the response.
        is_part: it is the requested range, not the whole object.
        where: its name in messages.
    """

    def __init__(
        self,
        body: Any,
        answer: Mapping[str, Any],
        bucket: str,
        found: ListedObject,
        start: int,
        stop: int | None,
    ) -> None:
        self.content_type: str | None = answer.get("ContentType")
        self.content_encoding: str | None = answer.get("ContentEncoding")
        self.answer = answer
        self._body = body
        self._bucket, self._what = bucket, f"reading {found.key!r}"
        self.where = where = f"bucket {bucket!r}, {self._what}"
        length = answer.get("ContentLength")
        part = part_of(answer)
        self.is_part = part is not None
        if not part and is_partial(answer) and (start or stop is not None or found.size < 0):
            raise TransientError(f"{where}: a part arrived without a valid Content-Range")
        if part:
            if part.first != start:
                raise TransientError(f"{where}: bytes from {part.first:,} on arrived instead of {start:,}")
            total = part.total
        else:
            total = -1 if length is None else int(length)
        # a server without ranges sends everything
        self._skip = 0 if part else start
        # and servers may send less than the requested range
        self._more_from = -1
        if part:
            asked_to = min(
                (end for end in (stop, total, found.size) if end is not None and end >= 0), default=-1
            )
            self._more_from = part.last + 1 if part.last + 1 < asked_to else -1
        self._left = None if stop is None else stop - start
        self._expected = int(length) if length is not None else None
        if part and self._expected is None:
            self._expected = part.last + 1 - start
        self._framed = length is not None  # HTTP guarantees that no more arrives
        self._arrived = 0
        self._check_total(total, found.size)
        self.size = total if total >= 0 else found.size
        if self._expected is None and total < 0 <= found.size and not self.content_encoding:
            self._expected = found.size

    def _check_total(self, total: int, listed: int) -> None:
        # a body compressed by a proxy has another length; unpacking shows whether it is complete
        if total >= 0 and listed >= 0 and total != listed and not self.content_encoding:
            raise TransientError(f"{self.where}: the object has {total:,} bytes, and {listed:,} were listed")

    async def read(self) -> bytes:
        while True:
            if self._left is not None and self._left <= 0:
                return b""
            data = await self._next()
            if not data and self._more_from >= 0:
                raise TransientError(
                    f"{self.where}: a part of what was asked for arrived, up to {self._more_from:,}"
                )
            if not data:
                return b""
            if self._skip:
                data, self._skip = data[self._skip :], max(0, self._skip - len(data))
            if self._left is not None:
                data = data[: self._left]
                self._left -= len(data)
            if data:
                return data

    async def _next(self) -> bytes:
        if self._framed and self._arrived == self._expected:
            return b""
        with s3_errors(self._bucket, self._what, of_object=True):
            data: bytes = await self._body.read(PIECE)
        self._arrived += len(data)
        if not data and self._expected is not None and self._arrived != self._expected:
            raise TransientError(f"{self.where}: {self._arrived:,} bytes arrived of {self._expected:,}")
        return data
