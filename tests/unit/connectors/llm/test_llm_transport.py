"""Proxies, certificates and addresses of model endpoints, from environments and files."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from connectors.llm import transport
from connectors.llm.client import ChatClient
from connectors.llm.connection import Alternative, LlmConnection
from connectors.llm.settings import LlmParams
from connectors.llm.transport import check_endpoint, open_sdk, why_unreachable
from engine.contract.clock import SystemClock
from engine.errors import FatalError, TransientError

FAR = "https://model.example/v1"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def opened(url: str) -> None:
    async with open_sdk(LlmConnection(base_url=url), 1.0):
        pass


@pytest.mark.parametrize("proxy", ["http://user:pa55@host:port", "http://[::1", "socks9://user:pa55@host:1"])
async def test_a_proxy_that_cannot_be_used_is_one_error(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(FatalError, match="proxy") as caught:
        await opened(FAR)
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("url", [FAR, "https://localhost:8443/v1"])
async def test_own_certificates_count_on_this_machine_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(FatalError, match=r"SSL_CERT_FILE.*No such file"):
        await opened(url)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (httpx.ConnectError("refused"), "cannot reach the proxy http://proxy.example:3128 for"),
        (httpx.ProxyError("407 Denied"), "the proxy http://proxy.example:3128 refused the connection"),
    ],
)
def test_a_proxy_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception, told: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pa55@proxy.example:3128")
    words = why_unreachable(error, FAR)
    assert told in words
    assert "HTTPS_PROXY" in words
    assert "pa55" not in words


def test_a_service_without_tls_is_named() -> None:
    error = httpx.ConnectError("failed")
    error.__cause__ = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    assert "use http:// in `base_url`" in why_unreachable(error, FAR)


@pytest.mark.parametrize("listed", ["m", "models/m", "m:latest", "other"])
async def test_a_model_is_found_as_its_endpoint_lists_it(
    monkeypatch: pytest.MonkeyPatch, listed: str
) -> None:
    async def names() -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(id=listed)

    @asynccontextmanager
    async def opened(*_: object) -> AsyncIterator[SimpleNamespace]:
        yield SimpleNamespace(models=SimpleNamespace(list=names))

    monkeypatch.setattr(transport, "open_sdk", opened)
    if listed == "other":
        with pytest.raises(FatalError, match="'m' is not among them"):
            await check_endpoint(LlmConnection(), "m")
    else:
        assert "m among them" in await check_endpoint(LlmConnection(), "m")


AZURE = "https://x.openai.azure.com/openai/deployments"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        (f"{AZURE}/mini?api-version=2024-10-21", f"{AZURE}/large"),
        (f"{AZURE}/mini/chat/completions?api-version=2024-10-21", f"{AZURE}/large"),
        ("https://x.openai.azure.com?api-version=2024-10-21", f"{AZURE}/large"),
        ("https://h/v1", "https://h/v1"),
    ],
)
def test_another_model_is_another_deployment(url: str, address: str) -> None:
    connection = LlmConnection(base_url=url, model="mini")
    other = connection.of_alternative(Alternative(model="large"))
    assert other.address == address
    assert other.query == connection.query


@pytest.mark.parametrize(
    ("url", "version", "address", "query"),
    [
        ("https://x.azure.com/models", "2024", "https://x.azure.com/models", {"api-version": "2024"}),
        ("https://x.azure.com/openai/v1/", "2", "https://x.azure.com/openai/v1", {"api-version": "2"}),
        ("https://x/v1/chat/completions?a=&b=1#c", "", "https://x/v1", {"a": "", "b": "1"}),
    ],
)
def test_an_address_is_taken_as_it_is_copied(
    url: str, version: str, address: str, query: dict[str, str]
) -> None:
    connection = LlmConnection(base_url=url, api_version=version)
    assert (connection.address, connection.query) == (address, query)


@pytest.mark.parametrize("key", ["abc\n", " Bearer abc"])
def test_what_belongs_to_no_key_is_cut_off(key: str) -> None:
    assert LlmConnection(api_key=SecretStr(key)).api_key.get_secret_value() == "abc"


@pytest.mark.parametrize("packed", ["br", "zstd"])
async def test_a_packed_answer_that_is_not_read_is_named(packed: str) -> None:
    nothing: Any = SimpleNamespace()
    chat = ChatClient(nothing, LlmConnection(), LlmParams(), SystemClock(), nothing)
    with pytest.raises(FatalError, match=f"`Content-Encoding: {packed}`, which the request did not accept"):
        chat._completion(b"\x8b\x07\x80", {"content-encoding": packed}, 0.0)
    with pytest.raises(TransientError):
        chat._completion(b"{", {"content-encoding": "gzip"}, 0.0)
