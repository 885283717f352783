"""Messages about an HTTP API show no secrets, even if the API repeats them in another form."""

from __future__ import annotations

import pytest

from connectors.http.connection import HttpConnection
from engine.redaction import hide

URL = "https://api.example"


@pytest.mark.parametrize(
    ("given", "repeated"),
    [
        ({"user": "ann", "password": "pa ss/1"}, "Authorization: Basic YW5uOnBhIHNzLzE="),
        ({"query_secrets": {"appid": "pa ss/1"}}, "GET /v1?appid=pa%20ss%2F1"),
        ({"query_secrets": {"appid": "pa ss/1"}}, "GET /v1?appid=pa+ss%2F1"),
        ({"query_secrets": {"appid": "pa ss/1"}}, "GET /v1?appid=pa+ss/1"),
        ({"headers": {"X-Api-Key": "pa ss/1"}}, "X-Api-Key: pa ss/1"),
    ],
)
def test_a_repeated_credential_is_hidden(given: dict[str, object], repeated: str) -> None:
    connection = HttpConnection.model_validate({"url": URL, **given})
    start, _, secret = repeated.partition("=" if "GET" in repeated else ": ")
    shown = hide(repeated, connection.secrets)
    assert shown.startswith(start)
    assert "***" in shown
    assert secret.removeprefix("Basic ") not in shown


def test_a_connection_without_credentials_hides_nothing() -> None:
    assert HttpConnection(url=URL).secrets == ()
