"""Invalid addresses are refused when the file is read."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from connectors.addresses import http_address
from connectors.llm.settings import LlmConnection
from connectors.warehouse.connection import WarehouseConnection


@pytest.mark.parametrize(
    "url", ["http://localhost:4200", "https://ingest.example", "http://[::1]:80/base", "http://127.0.0.1:1"]
)
def test_an_address_loses_the_slash_at_its_end_only(url: str) -> None:
    assert http_address(url) == http_address(f"{url}/") == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("localhost:4200", "must begin with http://"),
        ("ftp://localhost", "must begin with http://"),
        ("http://", "with a host"),
        ("http://:80", "with a host"),
        ("http://two words/", "without spaces"),
        ("http://localhost:port", "is not a valid address"),
        ("http://localhost:99999", "is not a valid address"),
        ("http://localhost:0", "from 1 to 65535"),
        ("http://[::1", "is not a valid address"),
    ],
)
def test_unreachable_address_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        WarehouseConnection(url=url)
    with pytest.raises(ValidationError, match=why):
        LlmConnection(base_url=url)
