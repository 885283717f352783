"""What stands under `with:` of `llm_extract`, and its connection."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from connectors.addresses import address_without_credentials, http_address
from engine.contract.component import Params, operational

__all__ = ["BYTES_PER_TOKEN", "DEFAULT_MODEL", "TOKENS_PER_IMAGE", "LlmConnection", "LlmParams"]

DEFAULT_MODEL: Final = "gpt-4o-mini"

BYTES_PER_TOKEN: Final = 4
"""UTF-8 bytes to a token: a documented estimate, because exact vocabularies are downloads. It is close for
English and too low by up to two for other scripts, so limits should leave room."""

TOKENS_PER_IMAGE: Final = 1_000
"""What an image is taken to cost; a page of 1024 x 1024 pixels costs 765 to 1,105 at OpenAI."""


class LlmConnection(BaseModel):
    """An OpenAI-compatible chat-completions endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = Field(default="https://api.openai.com/v1", description="Base URL, up to and with `/v1`")
    api_key: SecretStr = Field(default=SecretStr(""), description="API key; local servers often need none")
    model: str = Field(default=DEFAULT_MODEL, description="Name of the model at that endpoint")

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        return http_address(url)

    @field_validator("base_url")
    @classmethod
    def _holds_no_key(cls, url: str) -> str:
        return address_without_credentials(url)


class LlmParams(Params):
    """Parameters of `llm_extract`."""

    target: str = Field(
        default="Medical",
        alias="schema",
        description="What to extract: a model of `connectors.models`, or `package.module:Class`",
    )
    instructions: str = Field(default="", max_length=20_000, description="What the model should know besides")
    model: str | None = Field(default=None, description="Overrides the connection's model")
    temperature: float = Field(default=0.1, ge=0, le=2, description="Sampling temperature")
    max_tokens: int = Field(
        default=4_000, ge=16, description="Tokens of an answer; doubled once when an answer was cut off"
    )
    batch_size: int = operational(5, ge=1, le=50, description="Documents in a call, at most")
    pack_tokens: int = operational(
        8_000, ge=100, description="Estimated tokens of documents in a call; a longer document goes alone"
    )
    pack_images: int = operational(4, ge=1, description="Images in a call; a document with more goes alone")
    max_document_tokens: int = operational(
        100_000, ge=100, description="A longer document becomes a dead letter, it is never cut"
    )
    concurrency: int = operational(8, ge=1, le=256, description="Calls in flight, at most")
    timeout: float = operational(120.0, gt=0, description="Longest time for one call, in seconds")
    budget_usd: float | None = operational(
        None, gt=0, description="The run stops, resumable, before it spends more than this"
    )
    usd_per_million_input: float | None = operational(
        None, ge=0, description="Price of a million prompt tokens; known for some models, 0 for the sandbox"
    )
    usd_per_million_output: float | None = operational(
        None, ge=0, description="Price of a million answer tokens; known for some models, 0 for the sandbox"
    )
