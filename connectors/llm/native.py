"""Addresses of vendors' own APIs, which reject chat completions, and their OpenAI-compatible ones."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["compatible_address"]

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
