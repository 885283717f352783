"""Connections of `llm_extract`: endpoints of models."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from connectors.addresses import address_without_credentials, http_address
from connectors.credentials import Headers, Token
from connectors.llm.alternatives import Alternative
from connectors.llm.native import compatible_address
from engine.errors import FatalError

__all__ = ["DEFAULT_MODEL", "LlmConnection", "LlmEndpoint"]

DEFAULT_MODEL: Final = "gpt-4o-mini"

_DEPLOYMENT: Final = re.compile(r"(/openai/deployments/)[^/?]+")


class LlmEndpoint(BaseModel):
    """An OpenAI-compatible chat-completions endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: str = Field(
        default="https://api.openai.com/v1", description="Base URL, usually including `/v1`"
    )
    api_key: Token = Field(default=SecretStr(""), description="API key; local servers often need none")
    model: str = Field(default=DEFAULT_MODEL, description="Name of the model at that endpoint")
    api_version: str = Field(
        default="",
        description="Azure's `api-version`: the key goes in the header `api-key`, and the model is the name "
        "of a deployment",
    )
    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Quota of requests (default: as reported by the endpoint, if at all)",
    )
    tokens_per_minute: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description=(
            "Quota of tokens, prompts and answers together (default: as reported by the endpoint, if at all)"
        ),
    )
    headers: Headers = Field(default={}, description="Additional headers of every request")

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        parts = urlsplit(http_address(url.strip()))
        path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
        return urlunsplit(parts._replace(path=path, fragment=""))

    @property
    def address(self) -> str:
        """The base of the chat-completions path, without a query; for Azure, the deployment's address."""
        bare = self.base_url.partition("?")[0]
        # Azure's other chat-completions endpoints end with /v1 or /models and take the model's name
        if self.version and "/deployments/" not in bare and not bare.endswith(("/v1", "/models")):
            return f"{bare.removesuffix('/openai')}/openai/deployments/{quote(self.model, safe='')}"
        return bare

    @property
    def query(self) -> dict[str, str]:
        """The query of every request: the base URL's, plus Azure's version."""
        named = {"api-version": self.api_version} if self.api_version else {}
        return {**dict(parse_qsl(urlsplit(self.base_url).query, keep_blank_values=True)), **named}

    @property
    def version(self) -> str:
        """Azure's `api-version` from either place; "" without one."""
        return self.query.get("api-version", "")

    @field_validator("base_url")
    @classmethod
    def _holds_no_key(cls, url: str) -> str:
        return address_without_credentials(url)

    @field_validator("base_url")
    @classmethod
    def _takes_chat_completions(cls, url: str) -> str:
        if compatible := compatible_address(url):
            raise ValueError(
                f"is the address of another API, which rejects chat completions; write {compatible}"
            )
        return url


class LlmConnection(LlmEndpoint):
    """An OpenAI-compatible chat-completions endpoint, and others for its nodes' other models."""

    endpoints: dict[str, LlmEndpoint] = Field(
        default={}, description="Other endpoints by name, for models of `fallbacks` and `cascade`"
    )

    def of_endpoint(self, endpoint: LlmEndpoint) -> LlmConnection:
        """Return the connection of one of the `endpoints`, with its own model."""
        return LlmConnection.model_construct(**{**endpoint.__dict__, "endpoints": {}})

    def of_alternative(self, other: Alternative) -> LlmConnection:
        """Return the connection of another model.

        Raises:
            FatalError: it names an unknown endpoint.
        """
        if not other.endpoint:
            # an address of one deployment would reach the same model again
            named = _DEPLOYMENT.sub(rf"\g<1>{quote(other.model, safe='')}", self.base_url)
            return self.model_copy(update={"model": other.model, "base_url": named})
        endpoint = self.endpoints.get(other.endpoint)
        if endpoint is None:
            raise FatalError(other.misses(self.endpoints))
        return self.of_endpoint(endpoint).model_copy(update={"model": other.model})
