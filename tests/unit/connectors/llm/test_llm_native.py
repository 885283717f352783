"""Addresses of vendors' own APIs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from connectors.llm.connection import LlmConnection, compatible_address

PAGE = Path(__file__).parents[4] / "docs" / "connectors-llm.md"
GEMINI = "https://generativelanguage.googleapis.com"
VERTEX = "https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/europe-west1"
BEDROCK = "https://bedrock-runtime.us-west-2.amazonaws.com"
COHERE = "https://api.cohere.ai/compatibility/v1"


NATIVE = [
    (f"{GEMINI}/v1beta/models/gemini-2.5-flash:generateContent", f"{GEMINI}/v1beta/openai/"),
    (f"{GEMINI}/v1beta", f"{GEMINI}/v1beta/openai/"),
    (GEMINI, f"{GEMINI}/v1beta/openai/"),
    ("http://gw:8080/gemini/v1beta/models/g:generateContent", "http://gw:8080/gemini/v1beta/openai/"),
    (f"{VERTEX}/publishers/google/models/g:generateContent", f"{VERTEX}/endpoints/openapi/"),
    ("http://host:11434/api/generate", "http://host:11434/v1/"),
    ("http://host:11434/api/chat/", "http://host:11434/v1/"),
    ("http://host:11434/api", "http://host:11434/v1/"),
    ("http://host:8080/generate", "http://host:8080/v1/"),
    ("https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1/"),
    ("https://api.openai.com/v1/responses?a=b", "https://api.openai.com/v1/"),
    (BEDROCK, f"{BEDROCK}/openai/v1/"),
    (f"{BEDROCK}/model/anthropic.claude-v2:1/converse", f"{BEDROCK}/openai/v1/"),
    (f"{BEDROCK}/model/m/invoke-with-response-stream", f"{BEDROCK}/openai/v1/"),
    ("https://api.cohere.com/v2/chat", f"{COHERE}/"),
]


@pytest.mark.parametrize(("native", "compatible"), NATIVE)
def test_a_native_address_is_refused_with_the_other_one(native: str, compatible: str) -> None:
    with pytest.raises(ValidationError) as refused:
        LlmConnection(base_url=native)
    assert str(refused.value.errors()[0]["msg"]).endswith(f"; write {compatible}")
    assert compatible_address(compatible) == ""


def test_documented_addresses_are_those_of_messages() -> None:
    documented = re.findall(r"^  \| .+ \| `(https?://.+)` \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert documented
    for address in documented:
        pattern = re.compile(re.sub(r"[A-Z]{2,}", "[^/]+", re.escape(address)))
        assert any(pattern.fullmatch(compatible) for _, compatible in NATIVE), address


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1/chat/completions",
        "https://api.anthropic.com",
        "https://openrouter.ai/api/v1",
        "http://webui:3000/api",
        "http://host:11434",
        "https://name.openai.azure.com/openai/deployments/d/chat/completions?api-version=1",
        "https://name.services.ai.azure.com/models",
        "https://gateway.ai.cloudflare.com/v1/a/g/compat/chat/completions",
        "https://bedrock-mantle.us-east-1.api.aws/v1",
        f"{GEMINI}/v1beta/openai/",
        f"{VERTEX}/endpoints/openapi",
        COHERE,
        "http://127.0.0.1:9/completion-service/v1",
    ],
)
def test_a_compatible_address_is_taken(url: str) -> None:
    LlmConnection(base_url=url)
