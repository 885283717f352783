"""Signatures equal botocore's for any key, query and headers."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from connectors.s3.signing import EMPTY_SHA256, Signer, encode_key

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SAID = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def of_botocore(
    url: str, params: dict[str, str], headers: dict[str, str], token: str | None, region: str
) -> dict[str, str]:
    request = AWSRequest("GET", url, headers=headers, params=params)
    with patch("botocore.auth.get_current_datetime", lambda: NOW.replace(tzinfo=None)):
        S3SigV4Auth(Credentials("AK", "secret/key+", token), "s3", region).add_auth(request)
    return {name.lower(): str(text) for name, text in request.headers.items()}


@pytest.mark.slow
@given(
    key=KEYS,
    query=st.dictionaries(KEYS, KEYS, max_size=3),
    etag=st.none() | SAID,
    spaces=st.sampled_from(["bytes=0-1", "bytes=5-", "  a   b  "]),
    token=st.none() | SAID,
    host=st.sampled_from(["127.0.0.1:9000", "bucket.s3.eu-west-1.amazonaws.com", "minio"]),
    region=st.sampled_from(["us-east-1", "eu-central-1"]),
)
def test_signatures_are_those_of_botocore(
    key: str,
    query: dict[str, str],
    etag: str | None,
    spaces: str,
    token: str | None,
    host: str,
    region: str,
) -> None:
    headers = {"range": spaces} | ({"if-match": f'"{etag}"'} if etag else {})
    path = f"/bucket/{encode_key(key)}"

    made = Signer("AK", "secret/key+", region, token).headers(host, path, query, headers, NOW)
    wanted = of_botocore(f"http://{host}{path}", query, headers, token, region)

    assert made["authorization"] == wanted["authorization"]
    assert made["x-amz-date"] == wanted["x-amz-date"]
    assert made["x-amz-content-sha256"] == wanted["x-amz-content-sha256"] == EMPTY_SHA256
    assert made.get("x-amz-security-token") == wanted.get("x-amz-security-token") == (token or None)


@given(KEYS)
def test_keys_are_encoded_as_botocore_does(key: str) -> None:
    assert encode_key(key) == quote(key.encode(), safe="/~")


def test_the_key_of_a_day_is_not_used_on_the_next() -> None:
    signer = Signer("AK", "secret", "us-east-1")
    first = signer.headers("h", "/k", {}, {}, NOW)
    signer.headers("h", "/k", {}, {}, NOW.replace(day=3))
    assert signer.headers("h", "/k", {}, {}, NOW) == first
