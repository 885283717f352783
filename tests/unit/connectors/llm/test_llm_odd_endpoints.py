"""Unusual wordings of servers' and gateways' replies and errors, each seen in the wild."""

# ruff: noqa: E501 - their messages stand as they are worded

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from connectors.llm.completion import Reply, read_body, read_completion
from connectors.llm.refusals import Cause, Refusal, cause_of
from connectors.llm.waiting import wait_seconds

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def cause(status: int, body: object) -> Cause:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return cause_of(Refusal.of(status, content))


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (498, {"error": {"message": "Flex tier capacity exceeded"}}, Cause.BUSY),
        (420, "Enhance your calm", Cause.BUSY),
        (424, {"error": "Model m is currently loading", "estimated_time": 20.0}, Cause.BUSY),
        (425, "", Cause.BUSY),
        (409, {"error": {"message": "Conflict"}}, Cause.BUSY),
        (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}, Cause.BUSY),
        (400, {"error": {"message": "Rate limit exceeded, try again later", "code": "rate_limit_exceeded"}}, Cause.BUSY),
        (400, {"__type": "ThrottlingException", "message": "Too many requests"}, Cause.BUSY),
        (403, {"error": {"code": "rate_limit_exceeded", "message": "Rate limit is exceeded."}}, Cause.BUSY),
        (403, {"error": {"message": "This API key has run out of credits", "type": "insufficient_quota"}}, Cause.MONEY),
        (429, {"error": {"code": "1113", "message": "Your account is in arrears, please recharge"}}, Cause.MONEY),
        (400, {"error": {"message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}}, Cause.KEY),
        (400, {"error": {"message": "Incorrect API key provided: xx.", "code": "Client specified an invalid argument"}}, Cause.KEY),
        (400, {"error": {"message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length"}}, Cause.TOO_LONG),
        (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}, Cause.TOO_LONG),
        (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000 `inputs` tokens and 500 `max_new_tokens`"}, Cause.TOO_LONG),
        (400, {"error": {"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."}}, Cause.TOO_LONG),
        (400, {"error": {"message": "Prompt length (5000) exceeds maximum input length (4096)."}}, Cause.TOO_LONG),
        (400, {"error": {"message": "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192"}}, Cause.TOO_LONG),
        (400, {"error": "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens"}, Cause.TOO_LONG),
        (400, {"error": {"message": "litellm.ContextWindowExceededError: prompt of 9000 tokens"}}, Cause.TOO_LONG),
        (500, {"error": {"message": "input is too large to process. increase the physical batch size"}}, Cause.TOO_LONG),
        (400, {"error": {"code": "content_filter", "message": "The response was filtered", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}, Cause.FILTERED),
        (400, {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."}, Cause.FILTERED),
        (400, {"error": {"code": "sensitive_words_detected", "message": "sensitive words detected"}}, Cause.FILTERED),
        (404, {"error": "model 'x' not found, try pulling it first"}, Cause.MODEL),
        (404, {"error": {"message": "The API deployment for this resource does not exist.", "code": "DeploymentNotFound"}}, Cause.MODEL),
        (400, {"error": {"message": "x is not a valid model ID", "code": 400}}, Cause.MODEL),
        (422, {"error": {"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens and 500 `max_new_tokens`", "param": "max_tokens"}}, Cause.TOO_LONG),
        (400, {"object": "error", "message": "max_tokens must be at least 1, got -120.", "code": 400}, Cause.TOO_LONG),
        (500, {"error": {"message": "invalid JSON schema in format", "type": "api_error"}}, Cause.FORMAT),
        (500, {"error": {"message": "failed to parse grammar", "type": "server_error", "code": 500}}, Cause.FORMAT),
        (500, {"error": {"message": "JSON schema conversion failed: Unrecognized schema"}}, Cause.FORMAT),
        (500, {"error": {"message": "Internal error while sampling"}}, Cause.BUSY),
        (400, {"error": {"code": "invalid_parameter_error", "message": "This model only support stream mode, please enable the stream parameter to access the model."}}, Cause.NOT_STREAMED),
        (400, {"error": {"message": "Non-streaming calls are not supported for this model"}}, Cause.NOT_STREAMED),
        (400, {"error": {"message": "stream must be true", "param": "stream"}}, Cause.NOT_STREAMED),
        (400, {"error": {"message": "Unknown parameter: 'stream_options'."}}, Cause.STREAM_OPTIONS),
        (422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}, Cause.STREAM_OPTIONS),
        (400, {"error": {"message": "include_usage is not supported", "param": "stream_options.include_usage"}}, Cause.STREAM_OPTIONS),
        (400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}}, Cause.STREAM_OPTIONS),
        (400, {"error": {"message": "The upstream provider only takes texts"}}, Cause.UNCLEAR),
        (422, {"object": "error", "message": {"detail": [{"loc": ["body", "response_format", "type"], "msg": "Input should be 'text' or 'json_object'"}]}}, Cause.FORMAT),
    ],
)  # fmt: skip
def test_what_other_errors_are_about(status: int, body: object, expected: Cause) -> None:
    assert cause(status, body) is expected


@pytest.mark.parametrize(
    ("headers", "body", "message", "seconds"),
    [
        ({"retry-after": "5s"}, None, "", 5.0),
        ({"retry-after": " 7 "}, None, "", 7.0),
        ({"retry-after": "PT20S"}, None, "", 20.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "PT1M30S"}, None, "", 90.0),
        ({}, {"error": {"details": [{"retryDelay": "PT12S"}]}}, "", 12.0),
        ({"retry-after": "2026-01-01T00:00:09Z"}, None, "", 9.0),
        ({"x-ratelimit-reset-after": "3.5", "x-ratelimit-remaining": "0"}, None, "", 3.5),
        ({"ratelimit-remaining": "0", "ratelimit-reset": "12"}, None, "", 12.0),
        ({"ratelimit": '"default";r=0;t=30'}, None, "", 30.0),
        ({"ratelimit": '"default";r=4;t=30'}, None, "", None),
        ({"ratelimit": "limit=10, remaining=0, reset=7"}, None, "", 7.0),
        ({"ratelimit": "limit=10, remaining=3, reset=7"}, None, "", None),
        ({"x-ratelimit-remaining-tokens-minute": "0", "x-ratelimit-reset-tokens-minute": "12.5"}, None, "", 12.5),
        ({}, None, "Request was throttled. Expected available in 13 seconds.", 13.0),
        ({}, {"error": {"message": "Model is loading"}, "estimated_time": 20.5}, "", 20.5),
        ({}, None, "Please wait 12 seconds and try again.", 12.0),
        ({}, None, "Limit resets in 5s.", 5.0),
        ({}, None, "Please try again at 2026-01-01T00:00:30Z.", 30.0),
        ({}, None, "Please retry in 34.074824224s.", 34.074824224),
        ({}, None, "Please try again in 1 minute and 5 seconds.", 65.0),
    ],
)  # fmt: skip
def test_other_waits_are_heard(
    headers: dict[str, str], body: object, message: str, seconds: float | None
) -> None:
    assert wait_seconds(headers, body, message, NOW) == seconds


def completion(**choice: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    return {"choices": [{"message": {"content": "{}"}, "finish_reason": "stop", **choice}], "usage": usage}


@pytest.mark.parametrize(
    ("reason", "read"),
    [
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("max_output_tokens", "length"),
        ("incomplete", "length"),
        ("SAFETY", "content_filter"),
        ("content_filter: PROHIBITED_CONTENT", "content_filter"),
        ("FinishReason.MAX_TOKENS", "length"),
        ("content-filter", "content_filter"),
        ("sensitive", "content_filter"),
        ("end_turn", "end_turn"),
        (None, ""),
    ],
)
def test_reasons_of_an_end_are_read(reason: str | None, read: str) -> None:
    found = read_completion(completion(finish_reason=reason))
    assert isinstance(found, Reply)
    assert found.finish_reason == read


@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource", "network_error"])
def test_an_answer_that_broke_off_is_tried_again(reason: str) -> None:
    found = read_completion(completion(finish_reason=reason))
    assert isinstance(found, Refusal)
    assert cause_of(found) is Cause.BUSY


@pytest.mark.parametrize(
    "body",
    [
        {"object": "error", "message": "Internal error", "code": 500},
        {"error_code": 18, "error_msg": "Open api qps request limit reached"},
        {"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}},
        {"detail": "upstream timed out"},
        {"success": False, "errors": [{"code": 7003, "message": "no route"}]},
        {"status": "error", "message": "overloaded"},
    ],
)
def test_an_error_that_came_with_status_200_is_one(body: object) -> None:
    found = read_completion(body)
    assert isinstance(found, Refusal)
    assert cause_of(found) is Cause.BUSY


EVENTS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"index": 0, "delta": {"content": '{"a"'}}]},
    {"choices": [{"index": 0, "delta": {"content": ": 1}"}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 3}},
]


@pytest.mark.parametrize(
    "stream",
    [
        ": ping\n\n" + "".join(f"data: {json.dumps(one)}\n\n" for one in EVENTS) + "data: [DONE]\n\n",
        "\r\n".join(map(json.dumps, EVENTS)) + "\r\n",
    ],
    ids=["events", "lines"],
)
def test_an_unrequested_stream_is_put_together(stream: str) -> None:
    found = read_completion(read_body(stream.encode()))
    assert found == Reply('{"a": 1}', "stop", "", 10, 3)


@pytest.mark.parametrize(
    "one", [{"response": "a", "done": False}, {"choices": [{"delta": {"content": "{"}}]}]
)
def test_other_json_lines_are_no_answer(one: object) -> None:
    found = read_completion(read_body(f"{json.dumps(one)}\n{json.dumps(one)}\n".encode()))
    assert not isinstance(found, Reply)


def test_tool_arguments_of_a_stream_are_joined() -> None:
    calls = [
        {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "T", "arguments": part}}]}}]}
        for part in ('{"a"', ": 1}")
    ]
    stream = "".join(f"data: {json.dumps(one)}\r\n\r\n" for one in calls)
    found = read_completion(read_body(stream.encode()))
    assert isinstance(found, Reply)
    assert found.content == '{"a": 1}'


@pytest.mark.parametrize(
    ("said", "end", "is_whole"),
    [('{"a": 1', "", False), ('{"a": 1}', "", True), ("", "", False), ('{"a": 1', "data: [DONE]", True)],
)
def test_a_stream_that_breaks_off_is_no_answer(said: str, end: str, is_whole: bool) -> None:
    stream = f"data: {json.dumps({'choices': [{'delta': {'content': said}}]})}\n\n{end}"
    assert isinstance(read_completion(read_body(stream.encode())), Reply) is is_whole


USAGE = {"prompt_tokens": 10, "completion_tokens": 2}


@pytest.mark.parametrize(
    "choices",
    [
        [{"delta": {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": '{"a":'}]}},
         {"delta": {"content": [{"type": "text", "text": "1}"}]}}],
        [{"delta": {"content": [{"type": "text", "text": '{"a":'}]}}, {"delta": {"content": "1}"}}],
        [{"text": '{"a":'}, {"text": "1}"}],
        [{"delta": {"function_call": {"name": "T", "arguments": '{"a"'}}}, {"delta": {"function_call": {"arguments": ":1}"}}}],
        [{"delta": {"tool_calls": [{"index": 0, "function": {"name": "T", "arguments": {"a": 1}}}]}}],
        [{"delta": {"content": '{"a":'}}, {"delta": {"content": "1}"}}, {"message": {"content": '{"a":1}'}}],
        [{"message": {"content": '{"a":'}}, {"message": {"content": "1}"}}],
    ],
    ids=["parts", "parts-and-texts", "completions", "function-call", "object", "whole-at-end", "messages"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["usage", "x_groq", "choice"])
def test_streams_of_other_shapes_are_combined(choices: list[dict[str, Any]], place: str) -> None:
    last: dict[str, Any] = {"choices": [{"finish_reason": "stop"}]}
    {"usage": last, "x_groq": last.setdefault("x_groq", {}), "choice": last["choices"][0]}[place]["usage"] = (
        USAGE
    )
    events = [*({"choices": [one]} for one in choices), last]
    found = read_completion(read_body("".join(f"data: {json.dumps(one)}\n\n" for one in events).encode()))
    assert isinstance(found, Reply)
    assert (json.loads(found.content), found.finish_reason) == ({"a": 1}, "stop")
    assert (found.tokens_in, found.tokens_out, found.usage_known) == (10, 2, True)


ANTHROPIC: list[dict[str, Any]] = [
    {"type": "message_start", "message": {"type": "message", "content": [], "usage": {"input_tokens": 10, "output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "{hm"}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": '{"a"'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": ": 1}"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
    {"type": "message_stop"},
]  # fmt: skip
TOOL: list[dict[str, Any]] = [
    {**one, "delta": {"type": "input_json_delta", "partial_json": one["delta"]["text"]}}
    if "text" in one.get("delta", {}) else one
    for one in ANTHROPIC
]  # fmt: skip
RESPONSE: dict[str, Any] = {
    "object": "response", "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": '{"a": 1}'}]}],
    "usage": {"input_tokens": 10, "output_tokens": 4},
}  # fmt: skip
RESPONSES: list[dict[str, Any]] = [
    {
        "type": "response.created",
        "response": {**RESPONSE, "status": "in_progress", "output": [], "usage": None},
    },
    {"type": "response.output_text.delta", "delta": '{"a": 1}'},
    {"type": "response.completed", "response": RESPONSE},
]


def stream_of(events: list[dict[str, Any]]) -> bytes:
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events).encode()


@pytest.mark.parametrize("events", [ANTHROPIC, TOOL, RESPONSES], ids=["messages", "tool", "responses"])
def test_streams_of_other_apis_are_combined(events: list[dict[str, Any]]) -> None:
    found = read_completion(read_body(stream_of(events)))
    assert isinstance(found, Reply)
    assert (json.loads(found.content), found.tokens_in, found.tokens_out) == ({"a": 1}, 10, 4)


@pytest.mark.parametrize("events", [ANTHROPIC, RESPONSES], ids=["messages", "responses"])
def test_streams_of_other_apis_that_break_off_are_no_answer(events: list[dict[str, Any]]) -> None:
    found = read_completion(read_body(stream_of(events[:-2])))
    assert isinstance(found, Refusal)
    assert cause_of(found) is Cause.BUSY


@pytest.mark.parametrize(
    "event",
    [
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
        {"type": "error", "code": "server_error", "message": "gone"},
        {"type": "response.failed", "response": {**RESPONSE, "error": {"code": "server_error", "message": "gone"}}},
    ],
    ids=["messages", "responses", "failed"],
)  # fmt: skip
def test_errors_in_streams_of_other_apis_are_errors(event: dict[str, Any]) -> None:
    found = read_completion(read_body(stream_of([RESPONSES[0], event])))
    assert isinstance(found, Refusal)
    assert cause_of(found) is Cause.BUSY


def test_an_error_inside_a_stream_is_one() -> None:
    stream = f"data: {json.dumps(EVENTS[1])}\n\n" + 'data: {"error": {"code": 502, "message": "gone"}}\n\n'
    assert isinstance(read_completion(read_body(stream.encode())), Refusal)


def test_messages_in_other_vendors_shapes_are_read() -> None:
    text = [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": '{"a": 1}'}]
    body = {
        "type": "message", "role": "assistant", "content": text, "stop_reason": "max_tokens",
        "usage": {"input_tokens": 7, "output_tokens": 2},
    }  # fmt: skip
    found = read_completion(body)
    assert isinstance(found, Reply)
    assert (found.content, found.finish_reason, found.tokens_in) == ('{"a": 1}', "length", 7)
    # Ollama's own
    found = read_completion({"message": {"role": "assistant", "content": "{}"}, "done": True, "done_reason": "length",
                             "prompt_eval_count": 5, "eval_count": 1})  # fmt: skip
    assert isinstance(found, Reply)
    assert (found.content, found.finish_reason, found.tokens_in, found.tokens_out) == ("{}", "length", 5, 1)


def test_a_byte_order_mark_before_a_reply_is_no_obstacle() -> None:
    body = b"\xef\xbb\xbf" + json.dumps(completion()).encode()
    assert isinstance(read_completion(read_body(body)), Reply)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 10, "completion_tokens": None, "total_tokens": 14}, (10, 4, True)),
        ({"total_tokens": 14}, (0, 0, False)),
        ({"prompt_tokens": "10", "completion_tokens": "4"}, (10, 4, True)),
        ({"prompt_tokens": 10, "completion_tokens": True}, (0, 0, False)),
        ({"prompt_tokens": float("nan"), "completion_tokens": 1}, (0, 0, False)),
        ([], (0, 0, False)),
    ],
)
def test_partial_usage_is_completed_or_unknown(usage: object, expected: tuple[int, int, bool]) -> None:
    found = read_completion({**completion(), "usage": usage})
    assert isinstance(found, Reply)
    assert (found.tokens_in, found.tokens_out, found.usage_known) == expected


def test_calls_of_a_stream_are_joined_by_their_number() -> None:
    parts = [[(0, '{"r1": '), (1, '{"r2"')], [(0, "1}"), (1, ": 2}")]]
    deltas = [
        {"tool_calls": [{"index": at, "function": {"arguments": text}} for at, text in part]}
        for part in parts
    ]
    stream = "".join(f"data: {json.dumps({'choices': [{'delta': one}]})}\n\n" for one in deltas)
    found = read_completion(read_body(stream.encode()))
    assert isinstance(found, Reply)
    assert found.content == '{"r1": 1}\n{"r2": 2}'


@pytest.mark.parametrize(
    ("output", "more", "content", "finish", "refusal"),
    [
        ([{"type": "output_text", "text": "{}"}], {}, "{}", "", ""),
        ([{"type": "output_text", "text": "{"}], {"incomplete_details": {"reason": "max_output_tokens"}}, "{", "length", ""),
        ([{"type": "refusal", "refusal": "No."}], {}, "", "", "No."),
    ],
)  # fmt: skip
def test_a_body_of_the_responses_api_is_read(
    output: list[object], more: dict[str, object], content: str, finish: str, refusal: str
) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 4}}
    items = [
        {"type": "reasoning", "content": [{"type": "text", "text": "hm"}]},
        {"type": "message", "content": output},
    ]
    found = read_completion({"object": "response", "error": None, "output": items, "usage": usage, **more})
    assert isinstance(found, Reply)
    assert (found.content, found.finish_reason, found.refusal) == (content, finish, refusal)
    assert (found.tokens_in, found.tokens_out, found.tokens_cached) == (10, 5, 4)
