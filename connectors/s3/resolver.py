"""List the objects that a pattern matches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import anyio

from connectors.objects.listed import ListedObject
from connectors.objects.pattern import ObjectPattern
from connectors.s3.client import S3Client
from connectors.s3.errors import s3_errors
from connectors.s3.listing import list_pages
from engine.errors import ComponentError, FatalError, RecordError, TransientError

LOOKED_UP_AT_ONCE = 16

S3Object = ListedObject
"""A listed object."""


class S3WildcardResolver:
    """Lists the objects that a pattern matches, below its literal prefixes only."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    async def resolve_pattern(self, pattern: str | ObjectPattern) -> AsyncGenerator[S3Object, None]:
        """List the matching objects, each once, as the pages arrive.

        Keys come in order within each listed prefix. Directory markers (empty objects whose key ends with a
        slash) are skipped. A key without wildcards is looked up, not listed.

        Raises:
            PatternError: the pattern is invalid.
            FatalError: the bucket cannot be listed, or the only named object does not exist.
            TransientError: a page could not be fetched; start again.
        """
        async with aclosing(self.resolve_pages(pattern)) as pages:
            async for page in pages:
                for found in page:
                    yield found

    async def resolve_pages(
        self, pattern: str | ObjectPattern, *, after: str = ""
    ) -> AsyncGenerator[list[S3Object], None]:
        """List the matching objects in pages, some of which may be empty.

        Args:
            after: last key of an earlier listing, to continue after.
        """
        if isinstance(pattern, str):
            pattern = ObjectPattern.parse(pattern)
        exact, prefixes = _left(pattern, after)
        for first in range(0, len(exact), LOOKED_UP_AT_ONCE):
            yield await self._look_up_all(pattern, exact[first : first + LOOKED_UP_AT_ONCE])
        matches = pattern.matches
        for prefix in prefixes:
            start = after if after.startswith(prefix) else ""
            async with aclosing(list_pages(self._client, pattern.bucket, prefix, after=start)) as pages:
                async for page in pages:
                    yield [
                        _object(entry["Key"], entry)
                        for entry in page
                        if _is_file(entry) and matches(entry["Key"])
                    ]

    async def _look_up_all(self, pattern: ObjectPattern, keys: Sequence[str]) -> list[S3Object]:
        """Look up these keys concurrently and return the existing objects, in order."""
        found: list[S3Object | None] = [None] * len(keys)
        failures: list[ComponentError] = []

        async def look_up(index: int, key: str) -> None:
            try:
                found[index] = await self._look_up(pattern, key)
            except ComponentError as error:
                failures.append(error)

        async with anyio.create_task_group() as group:
            for index, key in enumerate(keys):
                group.start_soon(look_up, index, key)
        if failures:
            # a fatal error is more informative than a transient one
            raise next((one for one in failures if isinstance(one, FatalError)), failures[0])
        return [one for one in found if one is not None]

    async def _look_up(self, pattern: ObjectPattern, key: str) -> S3Object | None:
        try:
            with s3_errors(pattern.bucket, f"looking up {key!r}"):
                answer = await self._client.head_object(Bucket=pattern.bucket, Key=key)
        except RecordError as error:
            if error.kind != "ObjectVanished":
                return S3Object(key, "", -1)  # reading it reports the error
            if pattern.exact:
                raise _missing(pattern) from error
            return None  # one of several alternatives may be missing, as in a listing
        except (TransientError, FatalError):
            return await self._look_up_in_listing(pattern, key)
        if "ContentLength" not in answer:  # a proxy that compresses
            return await self._look_up_in_listing(pattern, key)
        return _object(key, answer)

    async def _look_up_in_listing(self, pattern: ObjectPattern, key: str) -> S3Object | None:
        """Find an object by listing, if HEAD is not allowed or its answer is unusable."""
        try:
            with s3_errors(pattern.bucket, f"looking up {key!r}"):
                answer = await self._client.list_objects_v2(Bucket=pattern.bucket, Prefix=key, MaxKeys=1)
        except FatalError:
            if pattern.exact:
                raise
            return S3Object(key, "", -1)  # this object alone may be affected; reading it reports the error
        for entry in answer.get("Contents", ()):
            if entry.get("Key") == key:
                return _object(key, entry)
        if pattern.exact:
            raise _missing(pattern)
        return None


def _missing(pattern: ObjectPattern) -> FatalError:
    return FatalError(
        f"{pattern.uri} does not exist (or its bucket does not); if it is a folder, `{pattern.uri}/**` "
        "matches the objects in it"
    )


def _left(pattern: ObjectPattern, after: str) -> tuple[Sequence[str], Sequence[str]]:
    """Return the keys to look up and the prefixes to list after a key, in order."""
    exact, prefixes = pattern.exact_keys, pattern.prefixes
    if not after:
        return exact, prefixes
    if after in exact:
        return exact[exact.index(after) + 1 :], prefixes
    return (), [prefix for prefix in prefixes if prefix > after or after.startswith(prefix)]


def _is_file(entry: Mapping[str, Any]) -> bool:
    # consoles create empty objects of this name to show a folder
    return not (entry["Key"].endswith("/") and not entry.get("Size"))


def _object(key: str, answer: Mapping[str, Any]) -> S3Object:
    modified = answer.get("LastModified")
    stamp = modified.isoformat() if modified is not None else ""
    size = answer.get("Size", answer.get("ContentLength"))
    return S3Object(key, plain_etag(answer.get("ETag")), -1 if size is None else int(size), stamp)


def plain_etag(etag: object) -> str:
    """Return an ETag without quotes and weak marker, "" without an ETag."""
    return str(etag or "").strip().removeprefix("W/").replace("&quot;", '"').strip('"')
