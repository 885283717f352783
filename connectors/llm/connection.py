"""Connections of `llm_extract`: endpoints of models, and the alternatives to a node's own model."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Final
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, SecretStr, field_validator

from connectors.addresses import address_without_credentials, http_address
from connectors.credentials import Headers, Token
from engine.errors import FatalError


class Alternative(BaseModel):
    """A model to ask besides the node's own; parameters default to the node's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="Name of the model")
    endpoint: str = Field(
        default="", description="One of the connection's `endpoints` (default: the connection itself)"
    )
    reasoning_effort: str | None = Field(default=None, description="As the node's `reasoning_effort`")
    extra_body: dict[str, JsonValue] | None = Field(default=None, description="As the node's `extra_body`")
    usd_per_million_input: float | None = Field(
        default=None, ge=0, description="Price of a million prompt tokens (default: known for most models)"
    )
    usd_per_million_output: float | None = Field(
        default=None, ge=0, description="Price of a million answer tokens (default: known for most models)"
    )

    def misses(self, endpoints: Collection[str]) -> str:
        """Return the message for an endpoint name that the connection does not have."""
        return (
            f"the model {self.model!r} names the endpoint {self.endpoint!r}, which is not one of the "
            f"connection's `endpoints` ({', '.join(endpoints) or 'none'})"
        )

    def changes(self) -> dict[str, object]:
        """Return the node parameters that differ for this model."""
        own = {"reasoning_effort": self.reasoning_effort, "extra_body": self.extra_body}
        return {
            "model": self.model,
            "usd_per_million_input": self.usd_per_million_input,
            "usd_per_million_output": self.usd_per_million_output,
            **{name: value for name, value in own.items() if value is not None},
        }


def _spelled_out(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


AlternativeModel = Annotated[
    Alternative, BeforeValidator(_spelled_out, json_schema_input_type=str | Alternative)
]
"""An alternative, or only the name of its model."""


# vendors' own APIs, which reject chat completions, and their OpenAI-compatible ones
_ADDRESSES: Final = tuple(
    (re.compile(pattern), compatible)
    for pattern, compatible in (
        # https://cloud.google.com/vertex-ai/generative-ai/docs/multimodal/call-vertex-using-openai-library
        (r"(.*/locations/[^/]+)/publishers/.*", r"\1/endpoints/openapi"),
        # https://ai.google.dev/gemini-api/docs/openai
        (r"(https?://generativelanguage\.googleapis\.com)(?!.*/openai).*", r"\1/v1beta/openai"),
        (r"(.*)/v1(?:alpha|beta)?/models/[^/]+:\w+", r"\1/v1beta/openai"),
        (r"(.*)/v1beta(?:/models)?", r"\1/v1beta/openai"),
        # https://docs.aws.amazon.com/bedrock/latest/userguide/inference-chat-completions.html
        (r"(https?://[^/]+)/model/[^/]+/(?:invoke|converse)(?:-\w+)*", r"\1/openai/v1"),
        (r"(https?://(?:[^/]+\.)?bedrock-runtime[.-][^/]+)", r"\1/openai/v1"),
        # https://docs.cohere.com/docs/compatibility-api
        (r"https?://api\.cohere\.(?:ai|com)(?!/compatibility).*", r"https://api.cohere.ai/compatibility/v1"),
        # Ollama, text-generation-inference, llama.cpp
        (r"(.*)/api/(?:generate|chat|tags)", r"\1/v1"),
        (r"(https?://[^/]+:11434)/api", r"\1/v1"),
        (r"(.*?)(?:/v1)?/(?:generate|generate_stream|completion)", r"\1/v1"),
        # https://platform.claude.com/docs/en/cli-sdks-libraries/libraries/openai-sdk, and OpenAI's other APIs
        (r"(.*/v1)/(?:messages|responses|completions|embeddings)", r"\1"),
    )
)


def compatible_address(url: str) -> str:
    """Return the OpenAI-compatible base URL for the address of a vendor's own API; "" for any other."""
    bare = url.partition("?")[0].rstrip("/")
    for native, compatible in _ADDRESSES:
        if found := native.fullmatch(bare):
            return f"{found.expand(compatible)}/"
    return ""


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
