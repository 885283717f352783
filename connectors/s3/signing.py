"""Sign GET requests with AWS Signature Version 4, in headers.

botocore does the same, but takes four fifths of the time of a small GET to build the request. Here the key of
a day is derived once, header names are sorted once, and the time is formatted once a second; a request then
takes two hashes.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from urllib.parse import quote

EMPTY_SHA256 = sha256(b"").hexdigest()
_ALGORITHM = "AWS4-HMAC-SHA256"


def encode_key(key: str) -> str:
    """Encode a key for an address, keeping slashes."""
    return quote(key, safe="/~")


class Signer:
    """Signs requests of one account for one region.

    Args:
        token: token of temporary credentials; None for permanent ones.
    """

    def __init__(self, access_key: str, secret_key: str, region: str, token: str | None = None) -> None:
        self._access_key = access_key
        self._secret_key = secret_key
        self._region = region
        self._token = token
        self._orders: dict[tuple[str, ...], tuple[list[str], str]] = {}
        self._second: datetime | None = None
        self._stamp = self._scope = self._day = ""
        self._key = b""

    def headers(
        self, host: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], now: datetime
    ) -> dict[str, str]:
        """Return all headers of a signed GET.

        Args:
            host: value of the Host header, with a non-default port.
            path: encoded path.
            query: unencoded query.
            headers: further headers to send and sign, by lower-case name.
            now: current time in UTC.
        """
        self._set_time(now)
        sent = {**headers, "host": host, "x-amz-content-sha256": EMPTY_SHA256, "x-amz-date": self._stamp}
        if self._token:
            sent["x-amz-security-token"] = self._token
        names, signed = self._order(tuple(sent))
        lines = "".join([f"{name}:{' '.join(sent[name].split())}\n" for name in names])
        request = f"GET\n{path}\n{_query(query) if query else ''}\n{lines}\n{signed}\n{EMPTY_SHA256}"
        digest = sha256(request.encode("utf-8")).hexdigest()
        text = f"{_ALGORITHM}\n{self._stamp}\n{self._scope}\n{digest}"
        signature = hmac.digest(self._key, text.encode(), "sha256").hex()
        sent["authorization"] = (
            f"{_ALGORITHM} Credential={self._access_key}/{self._scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )
        return sent

    def _order(self, names: tuple[str, ...]) -> tuple[list[str], str]:
        """Return sorted names of headers, and their joined text."""
        known = self._orders.get(names)
        if known is None:
            ordered = sorted(names)
            known = self._orders[names] = ordered, ";".join(ordered)
        return known

    def _set_time(self, now: datetime) -> None:
        second = now.replace(microsecond=0)
        if second == self._second:
            return
        self._second, self._stamp = second, second.strftime("%Y%m%dT%H%M%SZ")
        day = self._stamp[:8]
        if day != self._day:
            key = f"AWS4{self._secret_key}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._day, self._key = day, key
            self._scope = f"{day}/{self._region}/s3/aws4_request"


def _query(query: Mapping[str, str]) -> str:
    pairs = sorted((quote(name, safe="-_.~"), quote(text, safe="-_.~")) for name, text in query.items())
    return "&".join(f"{name}={text}" for name, text in pairs)
