"""The meaning of errors of OpenAI, Azure, Anthropic, Gemini, vLLM, llama.cpp and gateways."""

# ruff: noqa: E501 - their messages stand as they are worded

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from connectors.llm.prompt import Prompt
from connectors.llm.refusals import Cause, Refusal, cause_of, room_in_window, text_of, without_texts
from connectors.llm.shapes import JsonObject
from connectors.llm.waiting import wait_seconds

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def openai(
    message: str, param: str | None = None, code: object = None, kind: str = "invalid_request_error"
) -> object:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def cause(status: int, body: object) -> Cause:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return cause_of(Refusal.of(status, content))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai("This model's maximum context length is 128000 tokens. However, your messages resulted in "
                     "150000 tokens.", "messages", "context_length_exceeded")),
        (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you "
               "requested 9000 tokens (5000 in the messages, 4000 in the completion). Please reduce the length of "
               "the messages or completion.", "type": "BadRequestError", "code": 400}),
        (400, {"error": {"code": 400, "message": "the request exceeds the available context size. try increasing "
               "the context size or enable context shift", "type": "exceed_context_size_error",
               "n_prompt_tokens": 5000, "n_ctx": 4096}}),
        (500, {"error": {"code": 500, "message": "the request exceeds the available context size", "type": "server"}}),
        (400, {"error": {"message": "request (5000 tokens) exceeds the available context size (4096 tokens), try "
               "increasing it", "code": 400}}),
        (400, {"type": "error", "error": {"type": "invalid_request_error",
               "message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
        (413, {"type": "error", "error": {"type": "request_too_large", "message": "Request exceeds the maximum size"}}),
        (400, [{"error": {"code": 400, "message": "The input token count (1200000) exceeds the maximum number of "
                "tokens allowed (1048576).", "status": "INVALID_ARGUMENT"}}]),
        (422, {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1500",
               "error_type": "validation"}),
        (400, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
        (400, {"message": "Input is too long for requested model."}),
        (400, openai("This model's maximum prompt length is 131072 but the request contains 200000 tokens.")),
        (413, "<html>413 Request Entity Too Large</html>"),
        (429, openai("Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, "
                     "Requested 40000. The input or output tokens must be reduced.", None, "rate_limit_exceeded",
                     "tokens")),
    ],
)  # fmt: skip
def test_a_prompt_that_is_too_long_is_known_by_its_error(status: int, body: object) -> None:
    assert cause(status, body) is Cause.TOO_LONG


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, openai("This response_format type is unavailable now", None, "invalid_request_error")),
        (422, {"detail": [{"type": "literal_error", "loc": ["body", "response_format", "type"],
               "msg": "Input should be 'text' or 'json_object'"}]}),
        (400, openai("Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
                     "response_format")),
        (400, openai("Invalid schema for response_format 'T'", "response_format", "invalid_json_schema")),
        (400, [{"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name "
                "\"additionalProperties\" at 'generation_config.response_schema'", "status": "INVALID_ARGUMENT"}}]),
        (400, {"error": {"message": "tools is not supported in this model"}}),
        (404, {"error": {"message": "No endpoints found that support tool use.", "code": 404}}),
        (501, {"error": "json_schema is not supported"}),
    ],
)  # fmt: skip
def test_a_form_of_answer_that_is_not_known_is_distinguished(status: int, body: object) -> None:
    assert cause(status, body) is Cause.FORMAT


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, openai("Incorrect API key", None, "invalid_api_key"), Cause.KEY),
        (403, "Forbidden", Cause.KEY),
        (402, {"error": {"message": "Insufficient Balance"}}, Cause.MONEY),
        (429, openai("You exceeded your current quota", None, "insufficient_quota", "insufficient_quota"), Cause.MONEY),
        (400, {"error": {"type": "invalid_request_error",
               "message": "Your credit balance is too low to access the Anthropic API."}}, Cause.MONEY),
        (404, openai("The model `x` does not exist", None, "model_not_found"), Cause.MODEL),
        (404, {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError"}, Cause.MODEL),
        (429, openai("Rate limit reached for gpt-4o: Limit 30000, Used 29000, Requested 2000."), Cause.BUSY),
        (429, [{"error": {"code": 429, "message": "You exceeded your current quota, please check your plan and "
                "billing details.", "status": "RESOURCE_EXHAUSTED"}}], Cause.BUSY),
        (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, Cause.BUSY),
        (400, openai("'temperature' is not supported with this model.", "temperature"), Cause.TEMPERATURE),
        (400, openai("Unsupported value: 'temperature' does not support 0.1 with this model. Only the default (1) "
                     "value is supported."), Cause.TEMPERATURE),
        (400, openai("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
         Cause.LIMIT_NAME),
        (400, openai("Unrecognized request argument supplied: max_completion_tokens"), Cause.LIMIT_NAME),
        (400, openai("max_tokens is too large: 8000. This model supports at most 4096 completion tokens.",
                     "max_tokens", "invalid_value"), Cause.ANSWER_LIMIT),
        (400, openai("max_tokens: 8192 > 4096, which is the maximum allowed number of output tokens"),
         Cause.ANSWER_LIMIT),
        (400, openai("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"), Cause.ANSWER_LIMIT),
        (400, openai("System role not supported"), Cause.SYSTEM_ROLE),
        (400, openai("Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                     "messages[0].role", "unsupported_value"), Cause.SYSTEM_ROLE),
        (400, openai("The response was filtered due to the prompt triggering Azure OpenAI's content management "
                     "policy.", "prompt", "content_filter"), Cause.FILTERED),
        (403, {"error": {"code": 403, "message": "Your input was flagged for violence."}}, Cause.FILTERED),
        (400, openai("unexpected token in template", code=400), Cause.UNCLEAR),
        (400, "Bad Request", Cause.UNCLEAR),
    ],
)  # fmt: skip
def test_what_an_error_is_about(status: int, body: object, expected: Cause) -> None:
    assert cause(status, body) is expected


@pytest.mark.parametrize(
    ("message", "room"),
    [
        ("maximum context length is 4096 tokens. However, you requested 5000 tokens (1000 in the messages, 4000 in the completion).", 3096),
        ("This model's maximum context length is 4096 tokens and your request has 500 input tokens", 3596),
        ("input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000", 241),
        ("maximum context length is 4096 tokens (5000 in the messages, 4000 in the completion)", -904),
        ("the request exceeds the available context size", None),
    ],
)  # fmt: skip
def test_the_room_that_a_prompt_leaves_is_read(message: str, room: int | None) -> None:
    assert room_in_window(message) == room


@pytest.mark.parametrize("pages", [[], [{"type": "image_url", "image_url": {"url": "data:,x"}}]])
def test_short_lines_of_a_document_are_not_quoted(pages: list[JsonObject]) -> None:
    lines = "Ann Lee\naged 41\nin Oslo\nO'Hara"
    user = [*pages, {"type": "text", "text": lines}] if pages else lines
    text = text_of(Prompt("s", user, "n", {}, {"r1": ""}))
    assert without_texts(f"cannot read: {lines}", [text]) == "cannot read: …"


@pytest.mark.parametrize(
    ("headers", "body", "message", "seconds"),
    [
        ({"retry-after": "5"}, None, "", 5.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:09 GMT"}, None, "", 9.0),
        ({"retry-after": "5", "retry-after-ms": "250"}, None, "", 0.25),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s",
          "x-ratelimit-remaining-requests": "9", "x-ratelimit-reset-requests": "1h"}, None, "", 360.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1767225612000"}, None, "", 12.0),
        ({"anthropic-ratelimit-requests-remaining": "0",
          "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:30Z"}, None, "", 30.0),
        ({}, [{"error": {"details": [{"@type": "…RetryInfo", "retryDelay": "34.5s"}]}}], "", 34.5),
        ({}, {"error": {"retry_after": 3}}, "", 3.0),
        ({}, None, "Please try again in 20s.", 20.0),
        ({}, None, "Please try again in 1m2.5s.", 62.5),
        ({}, None, "Please try again in 250ms.", 0.25),
        ({}, None, "Please retry after 7 seconds.", 7.0),
        ({"retry-after": "99999"}, None, "", 3600.0),
        ({}, None, "Try again later.", None),
    ],
)  # fmt: skip
def test_a_requested_wait_is_read_in_any_form(
    headers: dict[str, str], body: object, message: str, seconds: float | None
) -> None:
    assert wait_seconds(headers, body, message, NOW) == seconds
