"""The requests and answers of OpenAI's chat completions that the stand-in supports.

https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from engine.sandbox.llm.documents import ImagePart, image_from_data_url

STAND_IN = "sandbox-stand-in"
MODEL = "sandbox-extractor"
API_KEY = "sandbox"  # public in the documentation: it gives access only to this process, on loopback

CHARACTERS_PER_TOKEN = 4  # the usual estimate for English text; the stand-in has no tokenizer
TOKENS_PER_IMAGE = 85  # OpenAI's token count of a low-detail image


class ImageUrl(BaseModel):
    url: str


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImageUrlPart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart | ImageUrlPart]


class SchemaSpec(BaseModel):
    name: str
    json_schema: dict[str, object] = Field(alias="schema")


class ResponseFormat(BaseModel):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaSpec | None = None


class ChatRequest(BaseModel):
    model: str
    messages: list[Message] = Field(min_length=1)
    response_format: ResponseFormat | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: Literal[False] | None = None
    n: Literal[1] | None = None

    def user_parts(self) -> list[str | ImagePart]:
        """Return the text and images of the user's messages.

        Raises:
            ValueError: an image is not a base64 data URL.
        """
        contents = [message.content for message in self.messages if message.role == "user"]
        parts: list[str | ImagePart] = []
        for content in contents:
            for part in [content] if isinstance(content, str) else content:
                if isinstance(part, str):
                    parts.append(part)
                elif isinstance(part, TextPart):
                    parts.append(part.text)
                else:
                    parts.append(image_from_data_url(part.image_url.url))
        return parts

    def prompt_tokens(self) -> int:
        """Estimate the tokens of all messages: a quarter of their characters, and a flat rate per image."""
        characters = images = 0
        for message in self.messages:
            for part in [message.content] if isinstance(message.content, str) else message.content:
                if isinstance(part, ImageUrlPart):
                    images += 1
                else:
                    characters += len(part if isinstance(part, str) else part.text)
        return tokens(characters) + images * TOKENS_PER_IMAGE

    def answer_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


def tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)


def error_body(message: str, kind: str, code: str | None, param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def completion_body(
    number: int, created: int, prompt_tokens: int, content: str | None, finish: str, refusal: str | None
) -> dict[str, object]:
    """Return a `chat.completion` object with one choice; its usage is estimated from lengths."""
    completion = tokens(len(content or refusal or ""))
    return {
        "id": f"chatcmpl-sandbox-{number}",
        "object": "chat.completion",
        "created": created,
        "model": MODEL,
        "system_fingerprint": STAND_IN,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, "refusal": refusal},
                "finish_reason": finish,
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": prompt_tokens + completion,
        },
    }
