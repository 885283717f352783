"""List pages on servers that continue listings differently or wrongly.

S3 returns a token for the next page. For servers that only support the first version of the call, or ignore
the token, listing continues after the last key instead. A listing without progress ends with an error, so
that an incomplete one is never taken for the whole.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import anyio

from connectors.s3.client import S3Client
from connectors.s3.errors import s3_errors
from engine.errors import FatalError, RecordError, TransientError

MAX_REMEMBERED = 100_000
"""Maximum keys remembered to detect repetitions in an unordered listing."""

MAX_EMPTY_PAGES = 1000
"""Maximum empty pages in a row; AWS sends some for long runs of deleted objects."""

MAX_PAGE_SECONDS = 300.0
"""Time limit of a page; the timeout of the connection limits only pauses between bytes."""

Entry = Mapping[str, Any]
"""An object as botocore's `list_objects_v2` describes it."""


async def list_pages(
    client: S3Client, bucket: str, prefix: str, *, after: str = ""
) -> AsyncGenerator[Sequence[Entry], None]:
    """List every object below a prefix, once, in pages as they arrive; some may be empty.

    Args:
        after: list only keys after this one.

    Raises:
        FatalError: the bucket cannot be listed, or the server does not continue the listing.
        TransientError: a page could not be fetched; start again.
    """
    listing = _Listing(client, bucket, prefix, after)
    while not listing.ended:
        yield await listing.next_page()


class _Listing:
    """The state of a listing.

    `ways` are the remaining ways to request the next page, best first.
    """

    def __init__(self, client: S3Client, bucket: str, prefix: str, after: str = "") -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._where = f"listing {prefix!r}" if prefix else "listing"
        self._ways = ["token", "start-after", "marker"]
        self._after = after
        self._token = ""
        self._keys = _Keys(after)
        self._empty_pages = 0
        self._began = False
        self.ended = False

    async def next_page(self) -> list[Entry]:
        """Return the objects of the next page that were not on earlier pages."""
        answer = await self._ask()
        # a server that ignores the start key begins with known objects
        contents = [one for one in answer.get("Contents", ()) if one.get("Key") and one["Key"] > self._after]
        known = not contents and bool(answer.get("Contents"))
        fresh = self._fresh(contents)
        token = str(answer.get("NextContinuationToken") or "")
        # some servers name a next page of one that they do not call truncated
        more = answer.get("IsTruncated") or bool(token and (fresh or "IsTruncated" not in answer))
        if not more:
            if self._began and not fresh and not answer.keys() & {"IsTruncated", "Contents"}:
                raise TransientError(
                    f"bucket {self._bucket!r}, {self._where}: the answer is not S3's: a page that has "
                    "neither objects nor an end"
                )
            self.ended = True
            return fresh
        repeated = bool(contents) and not fresh
        stuck = self._began and not fresh and token == self._token
        if self._ways[0] == "token" and (repeated or stuck or not token):
            self._another_way("names no next page" if not token else "repeats its pages")
        elif self._ways[0] != "token" and not fresh:
            self._another_way("repeats its pages")
        self._empty_pages = 0 if fresh or known else self._empty_pages + 1
        if self._empty_pages > MAX_EMPTY_PAGES:
            self._fail(f"has sent {MAX_EMPTY_PAGES:,} pages without an object and still names another")
        self._token, self._began = token, True
        return fresh

    async def _ask(self) -> Mapping[str, Any]:
        try:
            with anyio.fail_after(MAX_PAGE_SECONDS):
                return await self._page()
        except TimeoutError:
            raise TransientError(
                f"bucket {self._bucket!r}, {self._where}: the server did not complete a page within "
                f"{MAX_PAGE_SECONDS:g} s"
            ) from None
        except ValueError as error:  # from botocore: a size that is not a number
            raise TransientError(
                f"bucket {self._bucket!r}, {self._where}: the answer is not S3's: {error}"
            ) from error
        except RecordError as error:
            if error.kind != "ObjectVanished":
                raise
            raise FatalError(
                f"bucket {self._bucket!r}, {self._where}: there is nothing at this address (404): check the "
                "pattern and the connection's endpoint"
            ) from error

    async def _page(self) -> Mapping[str, Any]:
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        arguments = {"Bucket": self._bucket, "Prefix": self._prefix}
        way = self._ways[0]
        if self._began and way == "token":
            arguments["ContinuationToken"] = self._token
        elif self._began:
            arguments["StartAfter" if way == "start-after" else "Marker"] = self._keys.last
        elif self._after:
            arguments["Marker" if way == "marker" else "StartAfter"] = self._after
        with s3_errors(self._bucket, self._where):
            if way == "marker":
                return await self._client.list_objects(**arguments)
            try:
                return await self._client.list_objects_v2(**arguments)
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if self._began or status not in (405, 501):
                    raise
            self._ways = ["marker"]  # it supports only the first version of the call
            if "StartAfter" in arguments:
                arguments["Marker"] = arguments.pop("StartAfter")
            return await self._client.list_objects(**arguments)

    def _fresh(self, contents: Sequence[Entry]) -> list[Entry]:
        fresh = [entry for entry in contents if self._keys.add(entry["Key"])]
        if self._keys.lost:
            self._fail(
                f"lists more than {MAX_REMEMBERED:,} objects out of key order, so repetitions cannot be "
                "detected: use a pattern with a longer literal prefix"
            )
        return fresh

    def _another_way(self, why: str) -> None:
        """Continue after the last key, which is only valid if keys are in order."""
        self._ways = self._ways[1:]
        if not self._ways or not self._keys.ordered or not self._keys.last:
            self._fail(f"reports more objects, but {why}")

    def _fail(self, what: str) -> None:
        raise FatalError(
            f"bucket {self._bucket!r}, {self._where}: the server {what}; objects would be missing. Check "
            "the connection's endpoint, or list less with a longer literal prefix of the pattern."
        )


class _Keys:
    """The keys of a listing so far; in order, the last one suffices."""

    def __init__(self, last: str = "") -> None:
        self.last = last
        self.ordered = True
        self.lost = False
        # hashes of eight bytes each: an ordered listing is remembered in case it turns out to be unordered
        self._hashes: array[int] | None = array("q")
        self._known: set[int] | None = None

    def add(self, key: str) -> bool:
        """Return whether the key is new. `lost`: this can no longer be determined."""
        if key > self.last:
            self.last = key
            self._remember(key)
            return True
        if key == self.last:
            return False
        if self._hashes is None:
            self.lost = True  # it is a repeated key, or a new one out of order
            return False
        if self._known is None:
            self._known = set(self._hashes)
        if hash(key) in self._known:
            return False
        self.ordered = False
        self._remember(key)
        return True

    def _remember(self, key: str) -> None:
        if self._hashes is None:
            return
        self._hashes.append(hash(key))
        if self._known is not None:
            self._known.add(hash(key))
        if len(self._hashes) > MAX_REMEMBERED:
            self._hashes = self._known = None
            self.lost = not self.ordered
