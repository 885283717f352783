"""Reads one object and makes it a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from connectors.objects.decoding import decode_in_turn
from connectors.objects.pattern import ObjectPattern, PatternError
from connectors.s3.client import S3Client
from connectors.s3.errors import s3_errors
from engine.errors import RecordError, TransientError

if TYPE_CHECKING:
    from connectors.models import S3FileContent

__all__ = ["DEFAULT_MAX_OBJECT_BYTES", "FileRecord", "S3FileReader"]

DEFAULT_MAX_OBJECT_BYTES = 64 * 1024 * 1024

FileRecord = dict[str, str | int | bool]
"""The fields of `connectors.models.S3FileContent`."""


class _Body(NamedTuple):
    data: bytes
    content_type: str | None


class S3FileReader:
    """Reads objects whole.

    Args:
        client: an open client.
        max_object_bytes: larger objects are not read.
        charset: of text that is not UTF-8 and declares none; None: guessed from the text.
    """

    def __init__(
        self,
        client: S3Client,
        *,
        max_object_bytes: int = DEFAULT_MAX_OBJECT_BYTES,
        charset: str | None = None,
    ) -> None:
        self._client = client
        self._max = max_object_bytes
        self._charset = charset

    async def read_file(self, uri: str, *, etag: str = "", size: int | None = None) -> S3FileContent:
        """Read one object by its exact address; wildcard characters in it are part of the key.

        Args:
            uri: `s3://bucket/key` or `minio://bucket/key`; it becomes the `file_path`.
            etag: only this version of the object, as it was listed; "": whichever there is.
            size: bytes it must have, as it was listed.

        Raises:
            PatternError: not such an address.
            RecordError: `ObjectVanished`, `ObjectChanged`, `ObjectTooLarge`, `ObjectArchived`.
            TransientError: the server or the way to it failed, or the answer was cut off.
            FatalError: the bucket cannot be read at all.
        """
        from connectors.models import S3FileContent

        scheme, _, rest = uri.partition("://")
        bucket, _, key = rest.partition("/")
        ObjectPattern.parse(f"{scheme}://{bucket}/x")  # checks the scheme and the bucket
        if not key:
            raise PatternError(f"{uri!r} does not name an object")
        record = await self.read_record(uri, bucket, key, etag=etag, size=size)
        return S3FileContent.model_validate(record)

    async def read_record(
        self, uri: str, bucket: str, key: str, *, etag: str = "", size: int | None = None
    ) -> FileRecord:
        """The same as a plain record."""
        if size is not None:
            self._check_size(uri, size)
        body = await self._get(uri, bucket, key, etag)
        if size is not None and len(body.data) != size:
            raise TransientError(f"{uri}: {len(body.data)} bytes arrived of {size}")
        decoded = await decode_in_turn(body.data, key, body.content_type, self._charset)
        return {
            "file_path": uri,
            "content": decoded.content,
            "content_type": decoded.content_type,
            "file_size": len(body.data),
            "is_binary": decoded.is_binary,
        }

    async def _get(self, uri: str, bucket: str, key: str, etag: str) -> _Body:
        try:
            return await self._get_once(uri, bucket, key, etag)
        except RecordError as error:
            if error.kind != "ObjectChanged":
                raise
        # Some servers answer 412 while a copy lags behind: ask once what the object is now.
        with s3_errors(bucket, f"looking up {key!r}"):
            answer = await self._client.head_object(Bucket=bucket, Key=key)
        now = str(answer["ETag"]).strip('"')
        if now == etag:
            return await self._get_once(uri, bucket, key, etag)
        raise RecordError(
            (
                f"{uri} changed after it was listed: its ETag was {etag} and is now {now}; start a new "
                "run to read it"
            ),
            kind="ObjectChanged",
        )

    async def _get_once(self, uri: str, bucket: str, key: str, etag: str) -> _Body:
        arguments = {"Bucket": bucket, "Key": key}
        if etag:
            arguments["IfMatch"] = f'"{etag}"'
        with s3_errors(bucket, f"reading {key!r}"):
            answer: Mapping[str, Any] = await self._client.get_object(**arguments)
            # leaving the block closes the connection of a body that was not read to its end
            async with answer["Body"] as body:
                length = answer.get("ContentLength")
                if length is not None:
                    self._check_size(uri, int(length))
                data = bytes(await body.read())
        if length is not None and len(data) != length:
            raise TransientError(f"{uri}: {len(data)} bytes arrived of {length}")
        return _Body(data, answer.get("ContentType"))

    def _check_size(self, uri: str, size: int) -> None:
        if size > self._max:
            raise RecordError(
                f"{uri} has {size:,} bytes, more than the {self._max:,} of `max_object_bytes`",
                kind="ObjectTooLarge",
            )
