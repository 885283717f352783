"""The stand-in as an ASGI application: `/v1/chat/completions`, `/v1/models` and `/stats`."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from engine.sandbox.llm.answer import answer_for
from engine.sandbox.llm.documents import ImagePart, PromptDocument, parse_documents
from engine.sandbox.llm.injected_errors import (
    Fault,
    FaultPlan,
    HttpError,
    MalformedJson,
    Refusal,
    Truncated,
    damage,
)
from engine.sandbox.llm.wire import (
    API_KEY,
    CHARACTERS_PER_TOKEN,
    MODEL,
    STAND_IN,
    ChatRequest,
    completion_body,
    error_body,
    tokens,
)

_HEADERS = {"x-odw-stand-in": "true"}
_LARGEST_BODY = 64 * 1024 * 1024  # bytes; far above a packed call with images


@dataclass(slots=True)
class LlmStats:
    """Requests to the stand-in so far. Tokens are estimates; tokens and documents are counted in answers."""

    calls: int = 0
    answered: int = 0
    documents: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    in_flight: int = 0
    max_in_flight: int = 0


class _RefusedError(Exception):
    """A call that ends in an error answer; `retry_after` is in seconds."""

    def __init__(self, status: int, body: dict[str, object], retry_after: float | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.retry_after = retry_after


class LlmStandIn:
    """A model that follows rules and speaks OpenAI's protocol.

    Args:
        transcripts: the text on known images, by the SHA-256 of the image's bytes (hexadecimal).
        api_key: the accepted bearer key; any other is answered with 401.
        context_tokens: prompts estimated above this are answered with 400 `context_length_exceeded`.
        latency: seconds before each answer.
        faults: failures to inject, see `engine.sandbox.llm.injected_errors`.
        clock: seconds since the epoch, for the field `created`.
    """

    def __init__(
        self,
        transcripts: Mapping[str, str] | None = None,
        *,
        api_key: str = API_KEY,
        context_tokens: int = 128_000,
        latency: float = 0.0,
        faults: FaultPlan = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.stats = LlmStats()
        self._transcripts = dict(transcripts or {})
        self._authorization = f"Bearer {api_key}"
        self._context_tokens = context_tokens
        self._latency = latency
        self._fault_of = faults if callable(faults) else _one_by_one(faults)
        self._clock = clock
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/stats", self._stats),
            ],
            exception_handlers={_RefusedError: _answer},
        )

    async def _stats(self, _request: Request) -> JSONResponse:
        return JSONResponse(dataclasses.asdict(self.stats), headers=_HEADERS)

    async def _models(self, request: Request) -> JSONResponse:
        self._authorize(request)
        model = {"id": MODEL, "object": "model", "created": 0, "owned_by": STAND_IN}
        return JSONResponse({"object": "list", "data": [model]}, headers=_HEADERS)

    async def _chat(self, request: Request) -> JSONResponse:
        stats = self.stats
        stats.calls += 1
        stats.in_flight += 1
        stats.max_in_flight = max(stats.max_in_flight, stats.in_flight)
        try:
            self._authorize(request)
            return await self._complete(await _read(request))
        except _RefusedError:
            stats.refused += 1
            raise
        finally:
            stats.in_flight -= 1

    def _authorize(self, request: Request) -> None:
        if request.headers.get("authorization") != self._authorization:
            message = "Incorrect API key provided. The sandbox accepts the key `sandbox`."
            raise _RefusedError(401, error_body(message, "invalid_request_error", "invalid_api_key"))

    async def _complete(self, chat: ChatRequest) -> JSONResponse:
        prompt_tokens = chat.prompt_tokens()
        self._check(chat, prompt_tokens)
        documents = _documents(chat)
        fault = self._fault_of(documents)
        if self._latency:
            await anyio.sleep(self._latency)
        if isinstance(fault, HttpError):
            raise _RefusedError(
                fault.status, error_body(fault.message, fault.kind, fault.code), fault.retry_after
            )
        spec = chat.response_format.json_schema if chat.response_format else None
        answer = answer_for(documents, spec.json_schema if spec else None, self._transcripts)
        content, finish = _content(damage(answer, fault), fault, chat.answer_limit())
        refusal = fault.text if isinstance(fault, Refusal) else None
        self.stats.answered += 1
        self.stats.documents += len(documents)
        self.stats.prompt_tokens += prompt_tokens
        self.stats.completion_tokens += tokens(len(content or refusal or ""))
        created = int(self._clock())
        body = completion_body(self.stats.calls, created, prompt_tokens, content, finish, refusal)
        return JSONResponse(body, headers=_HEADERS)

    def _check(self, chat: ChatRequest, prompt_tokens: int) -> None:
        if chat.model != MODEL:
            message = f"The model does not exist; the sandbox serves `{MODEL}` only."
            raise _RefusedError(404, error_body(message, "invalid_request_error", "model_not_found", "model"))
        if prompt_tokens > self._context_tokens:
            message = (
                f"This model's maximum context length is {self._context_tokens} tokens. "
                f"However, your messages resulted in {prompt_tokens} tokens."
            )
            body = error_body(message, "invalid_request_error", "context_length_exceeded", "messages")
            raise _RefusedError(400, body)


def _one_by_one(faults: Sequence[Fault | None]) -> Callable[[Sequence[PromptDocument]], Fault | None]:
    waiting = deque(faults)
    return lambda _documents: waiting.popleft() if waiting else None


async def _read(request: Request) -> ChatRequest:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            message = f"The request is larger than {_LARGEST_BODY} bytes."
            raise _RefusedError(413, error_body(message, "invalid_request_error", None))
    try:
        return ChatRequest.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(step) for step in first["loc"])
        raise _RefusedError(400, error_body(first["msg"], "invalid_request_error", None, where)) from error


def _documents(chat: ChatRequest) -> list[PromptDocument]:
    """Return the documents of the prompt; without any, all of the user's text and images form one."""
    try:
        parts = chat.user_parts()
    except ValueError as error:
        raise _RefusedError(400, error_body(str(error), "invalid_request_error", None, "messages")) from error
    documents = parse_documents(parts)
    if documents:
        return documents
    text = "\n".join(part for part in parts if isinstance(part, str))
    images = tuple(part.data for part in parts if isinstance(part, ImagePart))
    return [PromptDocument("r1", "", "", text, images)]


def _content(answer: dict[str, object], fault: Fault | None, limit: int | None) -> tuple[str | None, str]:
    """Return the content of the message and its finish reason; `limit` is in tokens."""
    if isinstance(fault, Refusal):
        return None, "stop"
    content = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
    if isinstance(fault, MalformedJson):
        return "Here is the JSON you asked for: " + content[:-2], "stop"
    if isinstance(fault, Truncated):
        return content[: len(content) // 2], "length"
    if limit is not None and tokens(len(content)) > limit:
        return content[: limit * CHARACTERS_PER_TOKEN], "length"
    return content, "stop"


async def _answer(_request: Request, refused: Exception) -> JSONResponse:
    assert isinstance(refused, _RefusedError)
    headers = dict(_HEADERS)
    if refused.retry_after is not None:
        headers["retry-after"] = f"{refused.retry_after:g}"
    return JSONResponse(refused.body, refused.status, headers)
