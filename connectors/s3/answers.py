"""Settings of botocore for servers other than AWS, and for intermediaries.

Importing this imports the SDK.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiobotocore.httpsession import AIOHTTPSession  # type: ignore[import-untyped]
from aiobotocore.parsers import AioRestXMLParser  # type: ignore[import-untyped]
from botocore import handlers  # type: ignore[import-untyped]
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]
from botocore.utils import parse_timestamp  # type: ignore[import-untyped]

from connectors.json_lines import is_utf8
from connectors.objects.compression import PackedError, UnpackedTooLargeError
from connectors.objects.unpacking import unpack_body
from connectors.s3.errors import RedirectError

MAX_LISTING_BYTES = 64 * 1024 * 1024
"""Limit of a page that a proxy has compressed: 1,000 keys of 1,024 bytes take a few MiB."""

_LISTINGS = ("ListObjects", "ListObjectsV2")
_ANSWERS = dict.fromkeys(_LISTINGS, "ListBucketResult") | {
    "CreateMultipartUpload": "InitiateMultipartUploadResult",
    "CompleteMultipartUpload": "CompleteMultipartUploadResult",
    **dict.fromkeys(("PutObject", "UploadPart", "DeleteObject", "AbortMultipartUpload"), ""),
}
"""The root element of the answer to each of these; "" if there is none."""

_ENDS_OF_NAMES = ("Result", "Response")
"""The roots of answers that some servers send where S3 sends none."""

_ROOT = re.compile(
    rb"\s*(?:<\?.*?\?>\s*|<!--.*?-->\s*|<!doctype[^>]*>\s*)*<(?:[\w.-]+:)?([\w.-]+)",
    re.IGNORECASE | re.DOTALL,
)

_HTTP_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (\d\d) "
    r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (\d{4}) (\d\d):(\d\d):(\d\d) GMT",
    re.ASCII,
)
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


class SessionWithoutRedirects(AIOHTTPSession):  # type: ignore[misc]
    """An HTTP session that refuses redirects, which would send the credentials to another host."""

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)
        if not session.trace_configs:
            config = aiohttp.TraceConfig()
            config.on_request_redirect.append(_refuse_redirect)
            config.on_request_end.append(_read_odd_headers)
            config.on_request_end.append(_end_with_connection)
            config.freeze()
            session.trace_configs.append(config)
        return session


async def _refuse_redirect(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestRedirectParams
) -> None:
    response = params.response
    error = redirect_error(response.status, response.headers)
    response.close()
    raise error


def redirect_error(status: int, headers: Mapping[str, str]) -> RedirectError:
    """Describe a redirect and its remedy. The names of the headers are in lower case."""
    target = headers.get("location") or headers.get("uri") or ""
    region = headers.get("x-amz-bucket-region", "")
    place = target.partition("?")[0]
    remedy = (
        f"set `region: {region}` in the connection" if region else "set the `endpoint` (or `region`) it names"
    )
    to = f" to {place}" if place else ""
    return RedirectError(f"{status}: the server redirects{to}, which is not followed: {remedy}")


async def _read_odd_headers(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
) -> None:
    """Tolerate headers that are not UTF-8, such as file names in Latin-1."""
    response = params.response
    if any(not is_utf8(name) or not is_utf8(text) for name, text in response._raw_headers):
        # the SDK decodes them strictly, and has no earlier hook
        response._raw_headers = tuple(
            (name.decode("utf-8", "replace").encode(), text.decode("utf-8", "replace").encode())
            for name, text in response._raw_headers
        )


async def _end_with_connection(
    session: aiohttp.ClientSession, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
) -> None:
    """Let the body fail when its connection closes early: aiohttp waits forever if a chunk was invalid."""
    connection, body = params.response.connection, params.response.content
    if connection is None or connection.protocol is None:
        return  # all of it is here
    closed = connection.protocol.closed
    end = partial(_end_body, body)
    if closed is None:
        end()
        return
    closed.remove_done_callback(_retrieve)
    closed.add_done_callback(_retrieve)
    closed.add_done_callback(end)

    def forget() -> None:
        closed.remove_done_callback(end)

    body.on_eof(forget)


def _end_body(body: aiohttp.StreamReader, _: object = None) -> None:
    if not body.is_eof() and body.exception() is None:
        body.set_exception(
            aiohttp.ClientPayloadError("the connection was closed in the middle of the answer")
        )


def _retrieve(closed: asyncio.Future[None]) -> None:
    """Take the error of a closed connection, which asyncio would report otherwise."""
    if not closed.cancelled():
        closed.exception()


class _TolerantParser(AioRestXMLParser):  # type: ignore[misc]
    """Accepts variants from other servers: `True`, `1` and `yes`, and empty numbers."""

    def _handle_boolean(self, shape: Any, node: Any) -> bool:
        return _text_of(node).lower() not in ("", "false", "0", "no")

    def _handle_integer(self, shape: Any, node: Any) -> int | None:
        text = _text_of(node)
        return int(text) if text else None

    _handle_long = _handle_integer


def _text_of(node: Any) -> str:
    return (getattr(node, "text", node) or "").strip()


def tolerate_odd_values(session: Any) -> None:
    """Accept unusual dates, booleans and numbers, instead of refusing or misreading the whole answer."""
    factory = session.get_component("response_parser_factory")
    factory.create_parser = lambda _protocol: _TolerantParser(timestamp_parser=parse_date)


def parse_date(text: Any) -> datetime | None:
    """Parse a date, in UTC if it names no zone; return None for any other text."""
    usual = _usual_date(text) if isinstance(text, str) else None
    if usual is not None:
        return usual
    try:
        found: datetime = parse_timestamp(text)
    except (ValueError, TypeError, OverflowError, RuntimeError):  # the last one for impossible times
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _usual_date(text: str) -> datetime | None:
    """Parse a date in S3's form; return None for others, which botocore parses fifty times as slowly."""
    try:
        if text.endswith("Z") and text[4:5] == "-":
            return datetime.fromisoformat(text)
        match = _HTTP_DATE.fullmatch(text)
        if match is None:
            return None
        day, name, year, hour, minute, second = match.groups()
        month = _MONTHS.index(name) // 3 + 1
        return datetime(int(year), month, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        return None


def check_answers(client: Any) -> None:
    """Refuse other content with status 200: an error, or a proxy's login page.

    Such an answer must not count as an empty bucket or a stored object.
    """
    # botocore's own check turns everything that is not XML into a 500, hiding the real answer
    known = getattr(handlers, "_handle_200_error", None)
    if known is not None:
        client.meta.events.unregister("before-parse.s3.*", known)
    for operation, element in _ANSWERS.items():
        client.meta.events.register(f"before-parse.s3.{operation}", partial(_check_answer, element))
    for operation in _LISTINGS:
        client.meta.events.register_first(f"after-call.s3.{operation}", _drop_nameless)


def _check_answer(element: str, response_dict: dict[str, Any], **_: Any) -> None:
    if response_dict["status_code"] >= 300:
        return
    body = bytes(response_dict["body"])
    try:
        body = unpack_body(body, response_dict["headers"].get("content-encoding"), MAX_LISTING_BYTES) or body
    except (PackedError, UnpackedTooLargeError) as error:
        raise ResponseParserError(f"an answer that cannot be unpacked: {error}") from error
    # the parser rejects blanks before the declaration
    body = body.removeprefix(b"\xef\xbb\xbf").lstrip()
    response_dict["body"] = body
    if body[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return  # UTF-16, which the parser supports
    root = _ROOT.match(body)
    name = root[1].decode() if root else ""
    if name == "Error":
        response_dict["status_code"] = 500  # so that it is parsed as an error; its code shows the kind
    elif name != element and (element or not name.endswith(_ENDS_OF_NAMES)):
        what = f"<{name}>" if name else "no XML" if body else "nothing"
        wanted = "a listing" if element == "ListBucketResult" else f"<{element}>" if element else "nothing"
        raise ResponseParserError(f"{what} instead of {wanted}; check the connection's endpoint")


def _drop_nameless(parsed: dict[str, Any], **_: Any) -> None:
    """Drop entries without a name; botocore decodes names without checking that they exist."""
    parsed.pop("CommonPrefixes", None)
    if "Contents" in parsed:
        parsed["Contents"] = [entry for entry in parsed["Contents"] if entry.get("Key")]


def take_any_bucket_name(client: Any) -> None:
    """Do not validate bucket names: old buckets and other servers have other rules."""
    client.meta.events.unregister("before-parameter-build.s3", handlers.validate_bucket_name)
