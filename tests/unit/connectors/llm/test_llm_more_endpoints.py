"""Further wordings of vendors' errors, waits and replies, each seen in the wild."""

# ruff: noqa: E501 - their messages stand as they are worded

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from connectors.llm.completion import Reply, read_body, read_completion
from connectors.llm.pricing import price_of
from connectors.llm.refusals import Cause, Refusal, cause_of
from connectors.llm.replies import match_slots, normalise, read_lone
from connectors.llm.schema import schema_of
from connectors.llm.settings import LlmConnection, LlmParams
from connectors.llm.waiting import UsedUp, used_up, wait_seconds
from engine.errors import FatalError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (403, {"error": {"message": "Key limit exceeded (total limit).", "code": 403}}, Cause.MONEY),
        (429, {"error": {"message": "Your account is suspended", "type": "exceeded_current_quota_error"}}, Cause.MONEY),
        (403, {"error": "Your team has run out of prepaid credits or reached its monthly spending limit"}, Cause.MONEY),
        (429, {"code": "Some resource has been exhausted", "error": "Your team has either used all available credits"}, Cause.MONEY),
        (400, {"code": "Arrearage", "message": "Access denied"}, Cause.MONEY),
        (400, {"error": {"message": "Budget has been exceeded! Max budget: 10.0", "type": "budget_exceeded"}}, Cause.MONEY),
        (429, {"error": {"message": "Rate limit exceeded: buy more credits for a higher one"}}, Cause.BUSY),
        (429, {"error": {"message": "You exceeded your current quota, please check your plan and billing details.", "status": "RESOURCE_EXHAUSTED"}}, Cause.BUSY),
        (403, {"error": {"message": "You have exceeded a secondary rate limit"}}, Cause.BUSY),
        (499, "<html><title>Client Closed Request</title></html>", Cause.BUSY),
        (429, {"error": {"message": "Rate limit reached for m: Limit 0, Used 0, Requested 500."}}, Cause.BUSY),
        (404, {"error": {"message": "No endpoints found for vendor/m.", "code": 404}}, Cause.MODEL),
        (404, {"error": {"message": "models/m is not found for API version v1beta", "status": "NOT_FOUND"}}, Cause.MODEL),
        (410, {"error": {"message": "The model `m` has been deprecated"}}, Cause.MODEL),
        (400, {"error": {"message": "The model `m` has been decommissioned", "code": "model_decommissioned"}}, Cause.MODEL),
        (400, {"code": "InvalidParameter", "message": "Range of input length should be [1, 30720]"}, Cause.TOO_LONG),
        (400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}, Cause.TOO_LONG),
        (400, {"error": {"message": "Your request exceeded model token limit: 8192"}}, Cause.TOO_LONG),
        (422, {"detail": "prompt token length 9000 exceeds model max 8192"}, Cause.TOO_LONG),
        (400, {"error": {"message": "At most 1 image(s) may be provided in one prompt."}}, Cause.TOO_LONG),
        (400, {"error": {"message": "Image size is 6 MB exceeding the allowed limit of 5 MB"}}, Cause.TOO_LONG),
        (400, {"error": {"message": "`max_tokens` must be at most `8192`, which is less than the `context_window`", "param": "max_tokens"}}, Cause.ANSWER_LIMIT),
        (400, {"error": {"message": "Unknown name \"$defs\" at 'generation_config.response_schema': Cannot find field."}}, Cause.FORMAT),
        (400, {"error": {"message": "The specified schema produces a constraint that has too many states for serving."}}, Cause.FORMAT),
        (400, {"error": {"message": "Developer instruction is not enabled for models/m"}}, Cause.SYSTEM_ROLE),
        (400, {"error": "Error rendering prompt: \"Only user and assistant roles are supported!\"."}, Cause.SYSTEM_ROLE),
        (400, {"message": "\"auto\" tool choice requires --enable-auto-tool-choice"}, Cause.FORMAT),
        (400, {"error": "Model unloaded."}, Cause.BUSY),
        (400, {"error": "The model has crashed without additional information. (Exit code: 5)"}, Cause.BUSY),
        (400, {"message": "Too many tokens, please wait before trying again."}, Cause.BUSY),
        (429, [{"error": {"message": "Your prepayment credits are depleted.", "status": "RESOURCE_EXHAUSTED"}}], Cause.MONEY),
        (429, {"detail": "You have exceeded your monthly included credits for Inference Providers."}, Cause.MONEY),
        (400, {"error": {"message": "You have reached your specified API usage limits."}}, Cause.MONEY),
        (403, {"code": 30001, "message": "Sorry, your account balance is insufficient"}, Cause.MONEY),
        (403, {"error": {"message": "It has been exhausted.", "code": "AllocationQuota.FreeTierOnly"}}, Cause.MONEY),
        (429, {"error": {"code": "1113", "message": "余额不足或无可用资源包"}}, Cause.MONEY),
        (400, {"error": {"message": "Organization has been restricted.", "code": "organization_restricted"}}, Cause.KEY),
        (400, {"error": {"message": "Content Exists Risk"}}, Cause.FILTERED),
        (400, {"error": {"message": "litellm.ContentPolicyViolationError: AzureException"}}, Cause.FILTERED),
        (424, {"error": [{"code": 2016, "message": "Prompt blocked due to security configurations"}]}, Cause.FILTERED),
        (424, {"error": "Model dependency is loading"}, Cause.BUSY),
        (400, {"error": {"code": "1261", "message": "Prompt 超长"}}, Cause.TOO_LONG),
    ],
)  # fmt: skip
def test_what_further_errors_are_about(status: int, body: object, expected: Cause) -> None:
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    assert cause_of(Refusal.of(status, content)) is expected


FIVE_HOURS_AHEAD = {"date": "Thu, 01 Jan 2026 05:00:00 GMT"}
USED = {"x-ratelimit-remaining": "0"}


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "5, 5"}, None, 5.0),
        ({"retry-after": "1767225630"}, None, 30.0),
        ({"retry-after": "1e9"}, None, 3600.0),
        ({**FIVE_HOURS_AHEAD, "retry-after": "Thu, 01 Jan 2026 05:00:30 GMT"}, None, 30.0),
        ({**FIVE_HOURS_AHEAD, "retry-after": "1767243630"}, None, 30.0),
        ({**FIVE_HOURS_AHEAD, **USED, "x-ratelimit-reset": "1767243630"}, None, 30.0),
        ({**FIVE_HOURS_AHEAD, **USED, "x-ratelimit-reset": "2026-01-01T05:00:30Z"}, None, 30.0),
        ({**USED, "x-ratelimit-reset": "Thu, 01 Jan 2026 00:00:30 GMT"}, None, 30.0),
        ({**USED, "x-ratelimit-reset": "1767225630000000"}, None, 30.0),
        ({"x-ms-retry-after-ms": "2500"}, None, 2.5),
        ({}, {"detail": {"retry_after_ms": 4000}}, 4.0),
        ({"retry-after": "2m"}, None, 120.0),
        ({"x-ratelimit-remaining-tokens": "-3", "x-ratelimit-reset-tokens": "6s"}, None, 6.0),
        ({}, {"error": {"details": [{"retryDelay": {"seconds": 12, "nanos": 0}}]}}, 12.0),
        ({}, {"error": {"metadata": {"headers": {"Retry-After": "7"}}}}, 7.0),
        ({}, {"error": {"metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767225630000"}}}}, 30.0),
    ],
)  # fmt: skip
def test_further_waits_are_heard(headers: dict[str, str], body: object, seconds: float) -> None:
    assert wait_seconds(headers, body, "", NOW) == seconds


GOOGLE = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [
    {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "250"}]}  # fmt: skip
A_MINUTE = {**GOOGLE, "violations": [{"quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier"}]}
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}


@pytest.mark.parametrize(
    ("headers", "body", "message", "seconds"),
    [
        ({}, None, "Rate limit reached for m on requests per day (RPD): Limit 200, Used 200. Please try again in 7m12s.", 432.0),
        ({}, None, "Rate limit reached on tokens per day (TPD): Limit 100000, Used 97050. Please try again in 9m38.016s.", 578.016),
        ({}, None, "Rate limit of 50 per 86400s exceeded for UserByModelByDay. Please wait 43201 seconds before retrying.", 43201.0),
        ({}, {"error": {"metadata": {"limit_source": "openrouter_free_tier_daily"}}}, "", None),
        ({}, {"error": {"metadata": {"headers": {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767312000000"}}}}, "Rate limit exceeded: free-models-per-day.", 86400.0),
        ({}, {"error": {"details": [GOOGLE, RETRY]}}, "You exceeded your current quota", None),
        ({}, None, "You have used up your daily free allocation of 10,000 neurons", None),
        ({"x-ratelimit-remaining-requests-day": "0", "x-ratelimit-reset-requests-day": "33011.3"}, None, "", 33011.3),
        ({"x-ratelimit-remaining-tokens-day": "0", "x-ratelimit-reset-tokens-day": "soon"}, None, "", None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "7h12m0s"}, None, "", 25920.0),
        ({"retry-after": "86400"}, None, "", 86400.0),
        ({"retry-after": "Thu, 01 Jan 2026 20:00:00 GMT"}, None, "", 72000.0),
        ({"retry-after": "1e999"}, None, "Daily limit reached", None),
        ({"x-ratelimit-limit-req-minute": "0", "x-ratelimit-remaining-req-minute": "0"}, None, "Rate limit exceeded", math.inf),
        ({"retry-after": "31"}, None, "Quota exceeded for metric: free_tier_requests, limit: 0, model: m. Please retry in 31.1s.", math.inf),
    ],
)  # fmt: skip
def test_a_quota_of_a_day_is_not_waited_for(
    headers: dict[str, str], body: object, message: str, seconds: float | None
) -> None:
    assert used_up(headers, body, message, NOW) == UsedUp(seconds)


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        ({"retry-after": "3600"}, None, ""),
        ({"retry-after": "Thu, 01 Jan 2099 00:00:00 GMT"}, None, ""),
        ({"x-ratelimit-remaining-requests-day": "7", "x-ratelimit-reset-requests-day": "33011"}, None, ""),
        ({}, {"error": {"details": [A_MINUTE, RETRY]}}, "You exceeded your current quota"),
        ({}, None, "Rate limit reached for m on requests per min (RPM): Limit 3. Please try again in 20s."),
        ({}, None, "Rate limit: 0 requests remaining. Please try again in 20s."),
        ({}, None, "Rate limit reached for m on requests per day (RPD): Limit 10000, Used 10000. Please try again in 8.64s."),
    ],
)  # fmt: skip
def test_other_quotas_are_waited_for(headers: dict[str, str], body: object, message: str) -> None:
    assert used_up(headers, body, message, NOW) is None


def completion(message: object = None, **more: Any) -> dict[str, Any]:
    choice = {"message": {"content": '{"a":1}'} if message is None else message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 2}
    return {"choices": [{**choice, **more}], "usage": usage}


def read(body: object) -> Reply:
    found = read_completion(read_body(body if isinstance(body, bytes) else json.dumps(body).encode()))
    assert isinstance(found, Reply)
    return found


@pytest.mark.parametrize(
    "body",
    [
        completion({"content": None, "tool_calls": {"function": {"name": "T", "arguments": '{"a":1}'}}}),
        completion({"content": None, "tool_calls": [{"name": "T", "arguments": '{"a":1}'}]}),
        completion({"content": [{"type": "tool_use", "name": "T", "input": {"a": 1}}]}),
        completion({"content": [{"type": "json", "json": {"a": 1}}]}),
        completion({"content": None, "reasoning_details": [{"type": "reasoning.text", "text": '{"a":1}'}]}),
        completion({"content": None, "parsed": {"a": 1}}),
        completion('{"a":1}'),
        [completion()],
        {"code": 0, "data": completion()},
        {"result": completion(), "success": True},
        {"message": {"role": "assistant", "content": [{"type": "text", "text": '{"a":1}'}]}, "finish_reason": "COMPLETE"},
        json.dumps(completion()).encode("utf-16"),
        b": PROCESSING\n\n" * 3 + json.dumps(completion()).encode(),
        b'retry: 3000\n\ndata: {"choices": [{"delta": {"content": "{\\"a\\":1}"}, "finish_reason": "stop"}]}\n\n',
    ],
    ids=lambda body: str(body)[-40:],
)  # fmt: skip
def test_further_forms_of_an_answer_are_read(body: object) -> None:
    assert json.loads(read(body).content) == {"a": 1}


def test_a_part_that_declines_is_a_refusal() -> None:
    assert read(completion({"content": [{"type": "refusal", "refusal": "I cannot"}]})).refusal == "I cannot"


@pytest.mark.parametrize("reason", ["refusal", "content_filtered", "guardrail_intervened", "IMAGE_SAFETY"])
def test_further_reasons_are_those_of_a_filter(reason: str) -> None:
    assert read(completion(finish_reason=reason)).finish_reason == "content_filter"


@pytest.mark.parametrize(
    "usage",
    [
        {"promptTokens": 10, "completionTokens": 2},
        {"promptTokenCount": 10, "candidatesTokenCount": 2},
        {"prompt_tokens": "10.0", "completion_tokens": "2"},
    ],
)
def test_usage_is_known_under_other_names(usage: object) -> None:
    found = read({**completion(), "usage": usage})
    assert (found.tokens_in, found.tokens_out, found.usage_known) == (10, 2, True)


@pytest.mark.parametrize("body", [{"fault": {"faultstring": "Quota"}}, {"Message": "slow"}])
def test_further_errors_with_status_200_are_errors(body: object) -> None:
    assert isinstance(read_completion(body), Refusal)


ANSWERS = {"r1": {"nonce": "aa", "who": "Ann"}, "r2": {"nonce": "bb", "who": "Bob"}}
TEXT = json.dumps(ANSWERS)


@pytest.mark.parametrize(
    "content",
    [
        TEXT.replace('"aa"', '"AA"'),
        TEXT.replace('"aa"', '" aa "'),
        json.dumps({"name": "T", "arguments": TEXT}),
        json.dumps(json.dumps(TEXT)),
    ],
)
def test_answers_are_found_in_further_wrappings(content: str) -> None:
    reading = match_slots(content, {"r1": "aa", "r2": "bb"})
    assert reading is not None
    assert {slot: one["who"] for slot, one in reading.answers.items()} == {"r1": "Ann", "r2": "Bob"}


class Inner(BaseModel):
    street_name: str


class Named(BaseModel):
    patient_name: str
    home: Inner
    name: str | None = None


@pytest.mark.parametrize("spelled", ["patientName", "Patient Name", "PATIENT_NAME", "patient-name"])
def test_names_spelled_otherwise_are_understood(spelled: str) -> None:
    schema = schema_of(Named)
    content = json.dumps({spelled: "Ann", "Home": {"streetName": "High Street"}})
    reading = read_lone(content, "r1", schema.spellings)
    assert reading is not None
    found = normalise(reading.answers["r1"], schema)
    assert found == {"patient_name": "Ann", "home": {"street_name": "High Street"}}


def test_a_field_of_its_own_name_is_not_taken_by_a_spelling() -> None:
    found = normalise(
        {"patient_name": "Ann", "patientName": "Bob", "home": None, "name": "Cy"}, schema_of(Named)
    )
    assert (found["patient_name"], found["name"]) == ("Ann", "Cy")


class Size(Enum):
    SMALL = "s"


class Odd(BaseModel):
    who: str
    size: Literal[Size.SMALL]


class Spaced(BaseModel):
    mark: Literal["yes ", "yes"]


def test_a_literal_of_members_is_refused_by_its_field() -> None:
    with pytest.raises(FatalError, match="`size`: use `Size`"):
        schema_of(Odd)


def test_a_listed_value_keeps_its_spaces() -> None:
    assert normalise({"mark": "yes "}, schema_of(Spaced)) == {"mark": "yes "}


def test_thoughts_that_only_the_total_counts_are_paid_for() -> None:
    found = read({**completion(), "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 30}})
    assert (found.tokens_in, found.tokens_out) == (10, 20)


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens_details": {"cached_tokens": 8}}, {"prompt_cache_hit_tokens": 8}]
)
def test_cached_tokens_are_known_and_cost_less(usage: dict[str, Any]) -> None:
    found = read({**completion(), "usage": {"prompt_tokens": 10, "completion_tokens": 2, **usage}})
    assert found.tokens_cached == 8
    price = price_of("gpt-4o-mini", LlmParams())
    assert price.of(1_000_000, 0, 1_000_000) == price.per_million_cached == 0.075
    own = price_of("gpt-4o-mini", LlmParams(usd_per_million_input=1.0))
    assert own.of(1_000_000, 0, 1_000_000) == 1.0


@pytest.mark.parametrize(
    ("base_url", "version", "address", "query"),
    [
        ("http://h/v1/?a=b", "", "http://h/v1", {"a": "b"}),
        ("http://h/v1/chat/completions/", "", "http://h/v1", {}),
        ("http://h/v1#x", "", "http://h/v1", {}),
        ("http://h/v1?api-version=2", "", "http://h/v1", {"api-version": "2"}),
        ("http://h/?api-version=2", "", "http://h/openai/deployments/m", {"api-version": "2"}),
        ("http://h/openai", "3", "http://h/openai/deployments/m", {"api-version": "3"}),
        (
            "http://h/openai/deployments/d/chat/completions?api-version=2", "",
            "http://h/openai/deployments/d", {"api-version": "2"},
        ),
    ],
)  # fmt: skip
def test_base_urls_are_taken_as_vendors_show_them(
    base_url: str, version: str, address: str, query: dict[str, str]
) -> None:
    connection = LlmConnection(base_url=base_url, api_version=version, model="m")
    assert (connection.address, connection.query) == (address, query)


@pytest.mark.parametrize("name", ["requests_per_minute", "tokens_per_minute"])
def test_an_endless_quota_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        LlmConnection.model_validate({name: math.inf})


@pytest.mark.parametrize("name", ["budget_usd", "usd_per_million_input", "usd_per_million_output"])
def test_a_sum_of_money_is_no_yes_or_no(name: str) -> None:
    with pytest.raises(ValidationError, match="a number of USD"):
        LlmParams.model_validate({name: True})


def test_an_unknown_path_with_status_200_is_a_wrong_address() -> None:
    found = read_completion({"error": "Unexpected endpoint or method. (POST /chat/completions)"})
    assert isinstance(found, Refusal)
    assert found.status == 404


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"extra_body": {"model": "other"}}, "`model`"),
        ({"extra_body": {"messages": []}}, "`instructions`"),
        ({"fields": {"who": None}, "spans_field": "id"}, "`id` has the id"),
    ],
)
def test_parameters_that_would_replace_others_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        LlmParams.model_validate(given)


@pytest.mark.parametrize(
    "error",
    [{}, {"message": "", "type": "", "code": None}, {"code": 0, "message": "ok"}, {"code": "200"}],
)
def test_an_error_that_says_nothing_is_none(error: object) -> None:
    assert read({**completion(), "error": error}).content == '{"a":1}'


def test_an_empty_refusal_is_none() -> None:
    assert read(completion({"content": "{}", "refusal": {}})).refusal == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [('{"a":1}' + "\n" * 90, "stop"), ('{"a":1}', "length"), ('{"a":1}, \n', "length"), ("\n\n", "length")],
    ids=["white-space", "closed", "open", "nothing"],
)
def test_white_space_up_to_the_limit_cuts_nothing(content: str, reason: str) -> None:
    assert read(completion({"content": content}, finish_reason="length")).finish_reason == reason
