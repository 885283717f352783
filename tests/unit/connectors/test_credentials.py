"""Tokens and headers of connections, as people copy them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from connectors.http.connection import HttpConnection
from connectors.llm.connection import LlmConnection
from connectors.s3.client import S3Connection
from connectors.warehouse.connection import WarehouseConnection

URL = "https://service.example"
WITH_TOKEN: list[tuple[type[BaseModel], dict[str, Any], str]] = [
    (HttpConnection, {"url": URL}, "token"),
    (LlmConnection, {"base_url": URL}, "api_key"),
    (WarehouseConnection, {"url": URL}, "token"),
    (S3Connection, {}, "access_key"),
    (S3Connection, {}, "session_token"),
]
IDS = ["http", "llm", "warehouse", "s3", "s3-token"]
MODELS = pytest.mark.parametrize(("model", "given", "name"), WITH_TOKEN, ids=IDS)


@MODELS
@pytest.mark.parametrize("token", ["s3cret\n", " s3cret", "Bearer s3cret", "\tbearer  s3cret"])
def test_a_token_is_taken_as_it_is_copied(
    model: type[BaseModel], given: dict[str, Any], name: str, token: str
) -> None:
    connection = model.model_validate({**given, name: token})
    assert getattr(connection, name).get_secret_value() == "s3cret"


@MODELS
@pytest.mark.parametrize("token", ["\u201cs3cret\u201d", "s3\ncret"])
def test_a_token_that_no_header_carries_is_refused(
    model: type[BaseModel], given: dict[str, Any], name: str, token: str
) -> None:
    with pytest.raises(ValidationError, match="no HTTP header can carry") as caught:
        model.model_validate({**given, name: token})
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize("headers", [{"X-Key": "s3\ncret"}, {"X Key": "s3cret"}, {"Content-Length": "5"}])
@pytest.mark.parametrize(("model", "given", "_"), WITH_TOKEN[:2], ids=["http", "llm"])
def test_a_header_that_breaks_requests_is_refused(
    model: type[BaseModel], given: dict[str, Any], _: str, headers: dict[str, str]
) -> None:
    with pytest.raises(ValidationError, match=next(iter(headers))) as caught:
        model.model_validate({**given, "headers": headers})
    assert "cret" not in str(caught.value)


def test_an_empty_token_is_not_sent() -> None:
    assert HttpConnection.model_validate({"url": URL, "token": ""}).all_headers == {}
