"""Read one object as a record."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from connectors.objects.compression import PackedError, UnpackedTooLargeError
from connectors.objects.decoding import Decoded, decode_whole
from connectors.objects.listed import FileRecord
from connectors.objects.params import DEFAULT_MAX_OBJECT_BYTES, ObjectParams
from connectors.objects.pattern import ObjectPattern, PatternError, split_bucket
from connectors.objects.unpacking import unpack_body
from connectors.s3.client import S3Client
from connectors.s3.errors import is_unsupported, s3_errors
from connectors.s3.resolver import plain_etag
from engine.errors import RecordError, TransientError

if TYPE_CHECKING:
    from connectors.models import S3FileContent
    from connectors.s3.ranges import Arrived

Decode = Callable[[bytes, str, str, str | None], Awaitable[Decoded]]
T = TypeVar("T")

_PIECE = 1024 * 1024
_RANGE = re.compile(r"\s*bytes[\s=]+(\d{1,19})\s*-\s*(\d{1,19})\s*/\s*(\d{1,19}|\*)\s*", re.IGNORECASE)
_DIGEST = re.compile(r"[0-9A-Fa-f]{32}(-\d+)?")
_PACKED_ETAG = re.compile(r"[-;](?:gzip|deflate|br|zstd)$")


class _Body(NamedTuple):
    """A complete body: `data` is unpacked, `stored` is its size in the bucket."""

    data: bytes
    stored: int
    content_type: str | None
    etag: str = ""
    version_id: str | None = None
    last_modified: str | None = None


class Part(NamedTuple):
    """A byte range of an object from `first` to `last`; `total` is the object's size, -1 if unknown."""

    first: int
    last: int
    total: int


class OtherVersionError(RecordError):
    """The answer's ETag is not the listed one."""


class VersionedGets:
    """Sends GETs with If-Match, unless the server refuses the condition for every ETag."""

    def __init__(self) -> None:
        self._if_match = True

    async def send(self, etag: str, get: Callable[[dict[str, str]], Awaitable[T]]) -> T:
        """Call `get` with the condition for this ETag; without one for "".

        `get` has to check the ETag of the answer (`check_version`).
        """
        if not etag or not self._if_match:
            return await get({})
        try:
            return await get({"IfMatch": f'"{etag}"'})
        except OtherVersionError:
            raise
        except RecordError as error:
            if error.kind != "ObjectChanged":
                raise
        except TransientError as error:
            if not is_unsupported(error):
                raise
        answer = await get({})
        self._if_match = False
        return answer


class S3FileReader:
    """Reads objects whole.

    Args:
        client: an open client.
        max_object_bytes: larger objects are not read.
        charset: charset of all text, overriding declarations; None detects it.
        strict_text: refuse text that is not valid in its encoding.
        decode: function of the bytes, key, address and Content-Type that returns a record's content; None
            decodes as the format `document`.
    """

    def __init__(
        self,
        client: S3Client,
        *,
        max_object_bytes: int = DEFAULT_MAX_OBJECT_BYTES,
        charset: str | None = None,
        strict_text: bool = False,
        decode: Decode | None = None,
    ) -> None:
        self._client = client
        self._max = max_object_bytes
        self._decode = decode or partial(
            decode_whole, params=ObjectParams(charset=charset, strict_text=strict_text)
        )
        self._gets = VersionedGets()

    async def read_file(self, uri: str, *, etag: str = "", size: int | None = None) -> S3FileContent:
        """Read one object by its exact address; wildcard characters are literal.

        Args:
            uri: `s3://bucket/key` or `minio://bucket/key`, which becomes the `source_uri`.
            etag: listed version of the object, the only one to read; "" for any version.
            size: listed size, which must match; None or -1 if unknown.

        Raises:
            PatternError: the address is invalid.
            RecordError: `ObjectVanished`, `ObjectChanged`, `ObjectTooLarge`, `ObjectArchived`,
                `ObjectDamaged`, `InvalidText`.
            TransientError: the server or the network failed, or the answer was truncated.
            FatalError: the bucket cannot be read at all.
        """
        from connectors.models import S3FileContent

        scheme, _, rest = uri.partition("://")
        bucket, key = split_bucket(rest)
        ObjectPattern.parse(f"{scheme}://{bucket}/x")  # checks the scheme and the bucket
        if not key:
            raise PatternError(f"{uri!r} does not name an object")
        record = await self.read_record(uri, bucket, key, etag=etag, size=size)
        return S3FileContent.model_validate(record)

    async def read_record(
        self,
        uri: str,
        bucket: str,
        key: str,
        *,
        etag: str = "",
        size: int | None = None,
        arrived: Arrived | None = None,
    ) -> FileRecord:
        """Read one object as a plain record, from `arrived` bytes if given."""
        listed = size if size is not None else -1
        self._check_size(uri, listed)
        if arrived is not None:
            body = self._whole(uri, arrived.data, arrived.answer, listed)
        else:
            body = await self._gets.send(etag, partial(self._get, uri, bucket, key, etag, listed))
        decoded = await self._decode(body.data, key, uri, body.content_type)
        return {
            "file_path": f"s3://{bucket}/{key}",
            "content": decoded.content,
            "content_type": decoded.content_type,
            "file_size": body.stored,
            "is_binary": decoded.is_binary,
            "source_uri": uri,
            "etag": body.etag or etag,
            "version_id": body.version_id,
            "last_modified": body.last_modified,
            "encoding": decoded.encoding,
            "encoding_guessed": decoded.guessed,
            "replaced_characters": decoded.replaced,
        }

    async def _get(
        self, uri: str, bucket: str, key: str, etag: str, size: int, conditions: dict[str, str]
    ) -> _Body:
        with s3_errors(bucket, f"reading {key!r}", of_object=True):
            answer: Mapping[str, Any] = await self._client.get_object(Bucket=bucket, Key=key, **conditions)
            # leaving the block closes the connection of a body that was not read to the end
            async with answer["Body"] as body:
                check_version(uri, etag, answer)
                length = answer.get("ContentLength")
                if length is not None:
                    self._check_size(uri, int(length))
                data = await self._read_body(uri, body)
        if length is not None and len(data) != length:
            raise TransientError(f"{uri}: {len(data)} bytes arrived of {length}")
        part = part_of(answer)
        if part and part.total >= 0 and (part.first or part.total != len(data)):
            raise TransientError(f"{uri}: a part of {len(data)} bytes arrived of {part.total}")
        if size < 0 and is_partial(answer) and (part is None or part.total < 0):
            raise TransientError(f"{uri}: a part arrived whose Content-Range does not name the total size")
        return self._whole(uri, data, answer, size)

    async def _read_body(self, uri: str, body: Any) -> bytes:
        """Read the whole body, but never more than allowed, regardless of the announced length."""
        pieces: list[bytes] = []
        total = 0
        while piece := await body.read(_PIECE):
            total += len(piece)
            self._check_size(uri, total)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _whole(self, uri: str, data: bytes, answer: Mapping[str, Any], size: int) -> _Body:
        """Unpack the body if its length matches the listing; it was compressed when stored or in transit."""
        modified = answer.get("LastModified")
        body = _Body(
            data,
            len(data),
            answer.get("ContentType"),
            plain_etag(answer.get("ETag")),
            answer.get("VersionId"),
            modified.isoformat() if modified is not None else None,
        )
        try:
            unpacked = unpack_body(data, answer.get("ContentEncoding"), self._max)
        except UnpackedTooLargeError as error:
            raise RecordError(f"{uri}: {error} (`max_object_bytes`)", kind="ObjectTooLarge") from error
        except PackedError as error:
            if size >= 0 and len(data) == size:
                raise RecordError(f"{uri}: {error}", kind="ObjectDamaged") from error
            raise TransientError(f"{uri}: {error}") from error
        if size in (-1, len(data)):
            return body if unpacked is None else body._replace(data=unpacked)
        if unpacked is not None and len(unpacked) == size:
            return body._replace(data=unpacked, stored=size)
        raise TransientError(f"{uri}: {len(data)} bytes arrived of {size}")

    async def probe(self, bucket: str, key: str) -> None:
        """Request an object's first byte, to check that it can be read.

        Raises:
            RecordError, TransientError, FatalError: as for `read_file`.
        """
        try:
            await self._probe(bucket, key, Range="bytes=0-0")
        except TransientError as error:
            if not is_unsupported(error):
                raise
            await self._probe(bucket, key)

    async def _probe(self, bucket: str, key: str, **ranges: str) -> None:
        with s3_errors(bucket, f"probing {key!r}", of_object=True):
            answer = await self._client.get_object(Bucket=bucket, Key=key, **ranges)
            async with answer["Body"] as body:
                await body.read(1)  # a server that ignores ranges sends all of it

    def _check_size(self, uri: str, size: int) -> None:
        if size > self._max:
            raise RecordError(
                f"{uri} has {size:,} bytes, more than the {self._max:,} of `max_object_bytes`",
                kind="ObjectTooLarge",
            )


def part_of(answer: Mapping[str, Any]) -> Part | None:
    """Return the byte range of an answer; None without a valid Content-Range."""
    found = _RANGE.fullmatch(answer.get("ContentRange") or "")
    return Part(int(found[1]), int(found[2]), -1 if found[3] == "*" else int(found[3])) if found else None


def is_partial(answer: Mapping[str, Any]) -> bool:
    """Return whether the status of an answer is 206 (Partial Content)."""
    return bool(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") == 206)


def _same_etag(one: str, other: str) -> bool:
    # some servers write a digest in upper case in one place, and in lower case in another
    return one == other or bool(_DIGEST.fullmatch(one) and one.lower() == other.lower())


def check_version(uri: str, etag: str, answer: Mapping[str, Any]) -> None:
    """Check that an answer is of the listed version. Raises `OtherVersionError`."""
    now = plain_etag(answer.get("ETag"))
    if answer.get("ContentEncoding"):
        now = _PACKED_ETAG.sub("", now)  # suffixes that Apache and other servers add when they compress
    if etag and now and not _same_etag(now, etag):
        raise OtherVersionError(
            f"{uri} changed after it was listed: its ETag was {etag} and is now {now}; "
            "start a new run to read it",
            kind="ObjectChanged",
        )
