"""From a pattern to the objects it stands for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from connectors.objects.pattern import ObjectPattern
from connectors.s3.client import S3Client
from connectors.s3.errors import s3_errors
from engine.errors import FatalError, RecordError

__all__ = ["S3Object", "S3WildcardResolver"]


class S3Object(NamedTuple):
    """An object as it was listed.

    `etag` without its quotes, `size` in bytes, `last_modified` ISO 8601 in UTC, "" when it is not known.
    """

    key: str
    etag: str
    size: int
    last_modified: str = ""


class S3WildcardResolver:
    """Lists what a pattern stands for, and no more than its literal beginnings make necessary."""

    def __init__(self, client: S3Client) -> None:
        self._client = client

    async def resolve_pattern(self, pattern: str | ObjectPattern) -> AsyncGenerator[S3Object, None]:
        """The matching objects, each once, page by page as the listing arrives.

        Keys come in order within each listed beginning. Directory markers (empty objects whose key ends
        with a slash) are skipped. A name without wildcards is not listed but looked up.

        Raises:
            PatternError: the pattern cannot mean anything.
            FatalError: the bucket cannot be listed, or the one object that was named does not exist.
            TransientError: a page could not be had; begin again.
        """
        async with aclosing(self.resolve_pages(pattern)) as pages:
            async for page in pages:
                for found in page:
                    yield found

    async def resolve_pages(self, pattern: str | ObjectPattern) -> AsyncGenerator[list[S3Object], None]:
        """The same in pages, some of which may be empty."""
        if isinstance(pattern, str):
            pattern = ObjectPattern.parse(pattern)
        for key in pattern.exact_keys:
            found = await self._look_up(pattern, key)
            if found is not None:
                yield [found]
        for prefix in pattern.prefixes:
            token: str | None = ""
            while token is not None:
                page, token = await self._list(pattern, prefix, token)
                yield page

    async def _look_up(self, pattern: ObjectPattern, key: str) -> S3Object | None:
        try:
            with s3_errors(pattern.bucket, f"looking up {key!r}"):
                answer = await self._client.head_object(Bucket=pattern.bucket, Key=key)
        except RecordError as error:
            if pattern.exact:
                raise FatalError(f"{pattern.uri} does not exist (or its bucket does not)") from error
            return None  # one of several alternatives, as if it had been looked for in a listing
        return _object(key, answer, int(answer["ContentLength"]))

    async def _list(
        self, pattern: ObjectPattern, prefix: str, token: str
    ) -> tuple[list[S3Object], str | None]:
        arguments = {"Bucket": pattern.bucket, "Prefix": prefix}
        if token:
            arguments["ContinuationToken"] = token
        with s3_errors(pattern.bucket, f"listing {prefix!r}" if prefix else "listing"):
            answer = await self._client.list_objects_v2(**arguments)
        matches = pattern.matches
        page = [
            _object(entry["Key"], entry, int(entry["Size"]))
            for entry in answer.get("Contents", ())
            if matches(entry["Key"]) and not (entry["Key"].endswith("/") and not entry["Size"])
        ]
        return page, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None


def _object(key: str, answer: Mapping[str, Any], size: int) -> S3Object:
    modified = answer.get("LastModified")
    stamp = modified.isoformat() if modified is not None else ""
    return S3Object(key, str(answer["ETag"]).strip('"'), size, stamp)
