"""Extraction over a socket: the sandbox's stand-in with faults, and scripted endpoints."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import get_ident
from typing import Any

import anyio
import pytest
from pydantic import SecretStr, ValidationError

from connectors.llm import Document, LlmConnection, LlmExtract, LlmParams, get_llm_service, splitting
from connectors.llm.schema import target_schema
from connectors.models import Medical
from connectors.objects.decoding import decode
from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.errors import FatalError, RecordError, TransientError
from engine.sandbox.llm.app import LlmStandIn
from engine.sandbox.llm.injected_errors import (
    Fault,
    HttpError,
    MalformedJson,
    OmitSlot,
    Refusal,
    SwapSlots,
    Truncated,
    rate_limited,
)
from engine.sandbox.server import DEFAULT_SAMPLES, read_transcripts
from engine.service.server import serving_app
from engine.testing import ScriptedClock
from tests.integration.scripted_http import Answer, Request, ScriptedServer, unused_url

KEY = "sandbox"


def staged(number: int, text: str | None = None, **changes: object) -> dict[str, Any]:
    memo = (
        f"Patient: Person {number}\nAge: {30 + number}\nPhone: 555-010{number}\n"
        f"Procedure: Root canal\nAppointment: 2025-05-0{number}\nDoctor: Dr. Number {number}\n"
    )
    return {
        "id": f"unstr_{number}",
        "source_file_path": f"s3://bucket/memos/memo_{number}.txt",
        "extracted_data": memo if text is None else text,
        "processing_instructions": None,
    } | changes


def batch_of(*records: dict[str, object]) -> Batch:
    batch = Batch([*records], [f"key/{record['id']}" for record in records])
    batch.origins = [(SplitTracker("split").begin(len(records), None), len(records))]
    return batch


@asynccontextmanager
async def open_extract(url: str, key: str = KEY, **params: Any) -> AsyncIterator[LlmExtract]:
    connection = LlmConnection(base_url=f"{url}/v1", api_key=SecretStr(key), model="sandbox-extractor")
    extract = LlmExtract(LlmParams(**params), connection)
    extract.ctx = Context(clock=ScriptedClock(jump=True))
    async with extract:
        yield extract


@asynccontextmanager
async def stand_in(*faults: Fault | None, **params: Any) -> AsyncIterator[tuple[LlmStandIn, LlmExtract]]:
    model = LlmStandIn(faults=faults)
    async with serving_app(model.app) as url, open_extract(url, **params) as extract:
        yield model, extract


def names(batch: Batch) -> dict[str, str]:
    return {record["id"]: record["patient_name"] for record in batch.records}


EVERYBODY = {f"unstr_{number}": f"Person {number}" for number in range(1, 5)}
FOUR = [staged(number) for number in range(1, 5)]


async def test_one_call_yields_a_medical_row_per_record() -> None:
    async with stand_in() as (model, extract):
        batch = batch_of(*FOUR)
        derived = await extract.apply(batch)
    assert model.stats.calls == 1
    assert names(derived) == EVERYBODY
    assert derived.keys.to_list() == batch.keys.to_list()
    first = derived.records[0]
    assert Medical.model_validate(first, strict=True).model_dump() == first
    assert first["patient_age"] == "31"
    assert first["source_file_path"] == "s3://bucket/memos/memo_1.txt"
    assert first["transform_timestamp"] == "2026-01-01T00:00:00.000Z"


async def test_tokens_are_booked_on_the_records_that_caused_them() -> None:
    async with stand_in(usd_per_million_input=1.0, usd_per_million_output=10.0, batch_size=2) as (
        model,
        extract,
    ):
        batch = batch_of(*FOUR)
        await extract.apply(batch)
        tally = batch.origins[0][0].tally
        counted = dict(extract.ctx.aggregate)
    stats = model.stats
    assert stats.calls == 2
    assert (tally.tokens_in, tally.tokens_out) == (stats.prompt_tokens, stats.completion_tokens)
    cost = (stats.prompt_tokens + 10 * stats.completion_tokens) / 1_000_000
    assert tally.cost_usd == pytest.approx(cost)
    assert counted["calls"] == 2
    assert counted["cost_usd"] == pytest.approx(cost)


async def test_an_omitted_slot_is_asked_for_again_alone() -> None:
    async with stand_in(OmitSlot("r2")) as (model, extract):
        derived = await extract.apply(batch_of(*FOUR))
    assert names(derived) == EVERYBODY
    assert model.stats.calls == 2


async def test_swapped_slots_are_put_right_without_another_call() -> None:
    async with stand_in(SwapSlots("r1", "r3")) as (model, extract):
        derived = await extract.apply(batch_of(*FOUR))
    assert names(derived) == EVERYBODY
    assert model.stats.calls == 1


async def test_whole_parts_of_a_broken_answer_are_kept() -> None:
    async with stand_in(MalformedJson()) as (model, extract):
        derived = await extract.apply(batch_of(*FOUR))
    assert names(derived) == EVERYBODY
    assert model.stats.calls == 2


async def test_document_without_json_answer_dies_after_two_own_calls() -> None:
    async with stand_in(MalformedJson(), MalformedJson(), batch_size=1) as (model, extract):
        derived = await extract.apply(batch_of(staged(1)))
    assert [(index, error.kind) for index, error in derived.failures] == [(0, "MalformedReply")]
    assert model.stats.calls == 2


async def test_a_cut_off_answer_gets_more_tokens_before_the_pack_is_halved() -> None:
    requests: list[dict[str, object]] = []

    def script(request: Request) -> Answer:
        requests.append(request.json)
        if len(requests) <= 2:
            return completion("{", finish="length")
        return completion(echo(request))

    async with (
        ScriptedServer(script).running() as server,
        open_extract(server.url, max_tokens=4000) as extract,
    ):
        derived = await extract.apply(batch_of(*FOUR))
    assert len(derived) == 4
    assert [request["max_tokens"] for request in requests] == [4000, 8000, 4000, 4000]
    assert [slots_of(request) for request in requests] == [4, 4, 2, 2]


async def test_a_lone_document_cut_off_twice_is_dead() -> None:
    async with stand_in(Truncated(), Truncated()) as (model, extract):
        derived = await extract.apply(batch_of(staged(1)))
    assert derived.failures[0][1].kind == "AnswerTruncated"
    assert model.stats.calls == 2


@pytest.mark.slow
async def test_refused_pack_is_split_and_only_the_refused_one_dies() -> None:
    def refuse_third(documents) -> Fault | None:
        return Refusal() if any("Person 3" in document.text for document in documents) else None

    model = LlmStandIn(faults=refuse_third)
    async with serving_app(model.app) as url, open_extract(url) as extract:
        derived = await extract.apply(batch_of(*FOUR))
    assert sorted(names(derived)) == ["unstr_1", "unstr_2", "unstr_4"]
    assert [(index, error.kind) for index, error in derived.failures] == [(2, "Refused")]
    assert model.stats.calls == 6  # all of them twice, then in halves


async def test_rate_limit_is_left_to_the_engine_to_retry() -> None:
    async with stand_in(rate_limited(9)) as (model, extract):
        with pytest.raises(TransientError) as caught:
            await extract.apply(batch_of(*FOUR))
    assert caught.value.retry_after == 9.0
    assert model.stats.calls == 1


async def test_a_rate_limit_on_one_pack_leaves_the_answers_of_the_others() -> None:
    def limit_second(documents) -> Fault | None:
        return rate_limited(2) if any("Person 3" in document.text for document in documents) else None

    model = LlmStandIn(faults=limit_second)
    async with serving_app(model.app) as url, open_extract(url, batch_size=2) as extract:
        derived = await extract.apply(batch_of(*FOUR))
    assert sorted(names(derived)) == ["unstr_1", "unstr_2"]
    assert [index for index, _ in derived.failures] == [2, 3]
    assert all(isinstance(error, TransientError) for _, error in derived.failures)


async def test_a_wrong_key_stops_the_run_and_is_not_shown() -> None:
    model = LlmStandIn()
    async with serving_app(model.app) as url, open_extract(url, key="sk-geheim") as extract:
        with pytest.raises(FatalError) as caught:
            await extract.apply(batch_of(*FOUR))
    assert f"{url}/v1 answered 401 (invalid_api_key): " in str(caught.value)
    assert "the API key is missing, wrong" in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert caught.value.kind == "auth"


async def test_an_unknown_model_stops_the_run() -> None:
    async with stand_in(model="gpt-0") as (_, extract):
        with pytest.raises(FatalError, match="no such model 'gpt-0'"):
            await extract.apply(batch_of(*FOUR))


async def test_a_used_up_quota_is_no_rate_limit() -> None:
    quota = HttpError(429, "insufficient_quota", "You exceeded your current quota.", "insufficient_quota")
    async with stand_in(quota) as (_, extract):
        with pytest.raises(FatalError, match="quota is exhausted") as caught:
            await extract.apply(batch_of(*FOUR))
    assert caught.value.kind == "budget"


async def test_a_used_up_quota_of_a_day_stops_the_run_until_then() -> None:
    used = HttpError(429, "requests", "on requests per day (RPD). Please try again in 7h12m.")
    async with stand_in(used) as (_, extract):
        with pytest.raises(
            FatalError, match=r"resume the run after \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
        ) as caught:
            await extract.apply(batch_of(*FOUR))
    assert caught.value.kind == "budget"


async def test_an_endpoint_that_was_never_there_ends_the_run_and_is_named() -> None:
    url = unused_url()
    async with open_extract(url, connect_patience=0) as extract:
        with pytest.raises(FatalError, match=f"no service is listening at {url}/v1"):
            await extract.apply(batch_of(*FOUR))


async def test_a_host_that_does_not_exist_is_named() -> None:
    async with open_extract("http://no-such-host.invalid", connect_patience=0) as extract:
        with pytest.raises(FatalError, match=r"unknown host name 'no-such-host\.invalid'"):
            await extract.apply(batch_of(*FOUR))


async def test_an_endpoint_that_speaks_no_tls_is_named() -> None:
    async with ScriptedServer(answers=[]).running() as server:
        url = server.url.replace("http://", "https://")
        async with open_extract(url, connect_patience=0) as extract:
            with pytest.raises(FatalError, match=f"no secure connection to {url}"):
                await extract.apply(batch_of(*FOUR))


async def test_an_endpoint_that_was_there_before_is_waited_for() -> None:
    connection = LlmConnection(base_url=f"{unused_url()}/v1", api_key=SecretStr(KEY), model="m")
    extract = LlmExtract(LlmParams(connect_patience=0), connection)
    extract.ctx = Context(clock=ScriptedClock(jump=True), attempt=2)
    async with extract:
        with pytest.raises(TransientError, match="no service is listening"):
            await extract.apply(batch_of(*FOUR))


@pytest.mark.slow
async def test_a_prompt_too_long_for_the_model_is_halved_until_it_fits() -> None:
    long = staged(2, text="Patient: Person 2\n" + "filler " * 6_000)
    model = LlmStandIn(context_tokens=3_000)
    async with serving_app(model.app) as url, open_extract(url, pack_tokens=100_000) as extract:
        derived = await extract.apply(batch_of(staged(1), long, staged(3), staged(4)))
    assert sorted(names(derived)) == ["unstr_1", "unstr_3", "unstr_4"]
    assert [(index, error.kind) for index, error in derived.failures] == [(1, "DocumentTooLong")]


@pytest.mark.slow
async def test_records_that_need_no_model_cost_no_call() -> None:
    async with stand_in(max_document_tokens=100) as (model, extract):
        records = [
            staged(1, text=" \n"),
            staged(2, text="word " * 200),
            staged(3, text="[PDF_DATA]data:application/pdf;base64,bm90IGEgcGRm"),
            staged(4, id=7),
            staged(5, text="\ufeff\u200b\n"),
            {"id": "6", "body": "text"},
        ]
        derived = await extract.apply(batch_of(*records))
    assert model.stats.calls == 0
    assert derived.drops == {"empty document": 2}
    assert "`id`; make the number text first: `cast: {id: str}`" in str(derived.failures[2][1])
    assert "has no text in `extracted_data`; name another field with `text_field`" in str(
        derived.failures[3][1]
    )
    kinds = [(index, error.kind) for index, error in derived.failures]
    assert kinds == [(1, "DocumentTooLong"), (2, "CorruptDocument"), (3, "NotStaged"), (5, "NotStaged")]


async def test_an_image_costs_no_call_where_its_values_must_be_grounded() -> None:
    image = "[IMAGE_DATA]data:image/png;base64,iVBORw0KGgo="
    async with stand_in(require_grounding=["patient_name"]) as (model, extract):
        record = staged(1, text=image, source_file_path="scan.png")
        ((_, error),) = (await extract.apply(batch_of(record))).failures
        estimate = await extract.estimate([record], 1)
    assert (model.stats.calls, error.kind) == (0, "NotGrounded")
    assert "consists of images, in which patient_name cannot be found" in str(error)
    assert "consists of images" in estimate.notes[0]


async def test_a_document_lacking_a_required_field_is_dead_and_says_which() -> None:
    async with stand_in() as (_, extract):
        derived = await extract.apply(
            batch_of(staged(1, text="Patient: Person 1\nAge: unknown\n"), staged(2))
        )
    ((index, error),) = derived.failures
    assert (index, error.kind) == (0, "MissingFields")
    assert "patient_age" in str(error)
    assert "doctor" in str(error)
    assert "patient_name" not in str(error)


async def test_a_budget_stops_before_the_call_that_would_break_it() -> None:
    async with stand_in(
        budget_usd=0.0009, usd_per_million_input=1.0, usd_per_million_output=1.0, batch_size=1, concurrency=1
    ) as (model, extract):
        batch = batch_of(*FOUR)
        with pytest.raises(FatalError, match="raise `budget_usd` and resume"):
            await extract.apply(batch)
        tally = batch.origins[0][0].tally
    assert 0 < model.stats.calls < 4
    assert 0 < tally.cost_usd <= 0.0009


async def test_instructions_reach_the_model_and_split_the_packs() -> None:
    requests: list[dict[str, object]] = []

    def script(request: Request) -> Answer:
        requests.append(request.json)
        return completion(echo(request))

    async with (
        ScriptedServer(script).running() as server,
        open_extract(server.url, instructions="Dates as ISO") as extract,
    ):
        await extract.apply(batch_of(staged(1), staged(2, processing_instructions="Only adults"), staged(3)))
    assert sorted(slots_of(request) for request in requests) == [1, 2]
    systems = {slots_of(request): request["messages"][0]["content"] for request in requests}  # type: ignore[index]
    assert "Dates as ISO" in systems[1]
    assert "Dates as ISO" in systems[2]
    assert "Only adults" in systems[1]
    assert "Only adults" not in systems[2]


async def test_reasoning_model_gets_no_unsupported_parameters() -> None:
    requests: list[dict[str, object]] = []

    def script(request: Request) -> Answer:
        requests.append(request.json)
        for name in ("max_tokens", "temperature"):
            if name in request.json:
                error = {"message": "no", "type": "invalid_request_error", "param": name}
                return Answer.of({"error": error | {"code": "unsupported_parameter"}}, 400)
        return completion(echo(request))

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        derived = await extract.apply(batch_of(staged(1)))
        await extract.apply(batch_of(staged(2)))
    assert len(derived) == 1
    assert len(requests) == 4
    assert requests[-1]["max_completion_tokens"] == 512


@pytest.mark.parametrize(
    ("level", "taken"),
    [("tool", {"tools"}), ("json_object", {"json_object"}), ("text", set())],
)
async def test_an_endpoint_is_asked_in_the_strictest_form_that_it_takes(level: str, taken: set[str]) -> None:
    requests: list[dict[str, object]] = []

    def script(request: Request) -> Answer:
        requests.append(request.json)
        form = request.json.get("response_format", {}).get("type") or next(
            (name for name in ("tools",) if name in request.json), ""
        )
        if form and form not in taken:
            error = {
                "message": f"{form} is not supported",
                "param": "tools" if form == "tools" else "response_format",
            }
            return Answer.of({"error": error}, 400)
        return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        first = await extract.apply(batch_of(staged(1)))
        asked = len(requests)
        second = await extract.apply(batch_of(staged(2)))
    assert len(first) == len(second) == 1
    assert len(requests) == asked + 1  # it is remembered
    assert "JSON schema" in str(requests[-1]["messages"])


def refused_at(param: str) -> Answer:
    return Answer.of({"error": {"message": "Extra inputs are not permitted", "param": param}}, 400)


@pytest.mark.parametrize(
    "refusal",
    [
        refused_at("response_format.json_schema.strict"),
        refused_at("json_schema.strict"),
        Answer.of({"detail": [{"loc": ["body", "response_format", "s", "strict"], "msg": "extra"}]}, 422),
        Answer.of({"error": {"message": "Unrecognized request argument supplied: strict"}}, 400),
        Answer.of({"error": "no"}, 400),
    ],
)
async def test_only_strict_is_omitted_where_only_it_is_refused(refusal: Answer) -> None:
    def script(request: Request) -> Answer:
        if "strict" in request.json["response_format"]["json_schema"]:
            return refusal
        return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        first = await extract.apply(batch_of(staged(1)))
        asked = len(server.requests)
        second = await extract.apply(batch_of(staged(2)))
    assert len(first) == len(second) == 1
    assert len(server.requests) == asked + 1  # it is remembered
    assert server.requests[-1].json["temperature"] == 0.1


@pytest.mark.parametrize(("taken", "sent"), [("required", "required"), (None, None)])
async def test_a_tool_call_is_demanded_in_the_way_that_is_taken(taken: object, sent: object) -> None:
    def script(request: Request) -> Answer:
        if "response_format" in request.json:
            return refused_at("response_format")
        if request.json.get("tool_choice") != taken:
            return refused_at("tool_choice")
        return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        assert len(await extract.apply(batch_of(staged(1)))) == 1
    assert server.requests[-1].json["tools"]
    assert server.requests[-1].json.get("tool_choice") == sent


async def test_an_endpoint_that_only_streams_is_asked_for_a_stream() -> None:
    def script(request: Request) -> Answer:
        if not request.json.get("stream"):
            return Answer.of({"error": {"message": "This model only support stream mode"}}, 400)
        delta = {"content": json.dumps(dict.fromkeys(target_schema("Medical").fields, "x"))}
        usage = {"prompt_tokens": 7, "completion_tokens": 2}
        event = {"choices": [{"delta": delta, "finish_reason": "stop"}], "usage": usage}
        return Answer(200, f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        assert len(await extract.apply(batch_of(staged(1)))) == 1
        assert extract.ctx.aggregate["tokens_in"] == 7
        await extract.apply(batch_of(staged(2)))
    assert [request.json.get("stream") for request in server.requests] == [None, True, True]


@pytest.mark.slow
@pytest.mark.parametrize(
    "refusal", [{"error": {"message": "Unknown parameter", "param": "stream_options"}}, {"error": "no"}]
)
async def test_a_stream_without_reported_usage_is_booked_as_estimated(refusal: object) -> None:
    def script(request: Request) -> Answer:
        if not request.json.get("stream"):
            return Answer.of({"error": {"message": "This model only support stream mode"}}, 400)
        if "stream_options" in request.json:
            return Answer.of(refusal, 400)
        delta = {"content": json.dumps(dict.fromkeys(target_schema("Medical").fields, "x"))}
        event = {"choices": [{"delta": delta, "finish_reason": "stop"}]}
        return Answer(200, f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        assert len(await extract.apply(batch_of(staged(1)))) == 1
        asked = len(server.requests)
        assert len(await extract.apply(batch_of(staged(2)))) == 1
        assert len(server.requests) == asked + 1  # it is remembered
        assert extract.ctx.aggregate["calls_without_usage"] == 2
        assert extract.ctx.aggregate["tokens_in"] > 0
    last = server.requests[-1].json
    assert last["response_format"]["type"] == "json_schema"  # nothing else is given up
    assert last["temperature"] == 0.1


@pytest.mark.slow
async def test_what_is_given_up_stays_so_if_the_first_document_is_refused() -> None:
    def script(request: Request) -> Answer:
        if "temperature" in request.json:
            return Answer.of({"error": {"message": "no", "param": "temperature"}}, 400)
        if "Person 1" in json.dumps(request.json["messages"]):
            return Answer.of({"error": {"message": "Your input was flagged.", "code": 403}}, 403)
        return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))

    async with ScriptedServer(script).running() as server, open_extract(server.url, batch_size=1) as extract:
        derived = await extract.apply(batch_of(staged(1)))
        rest = await extract.apply(batch_of(staged(2)))
    assert [error.kind for _, error in derived.failures] == ["ContentFilter"]
    assert len(rest) == 1
    assert "temperature" not in server.requests[-1].json


@pytest.mark.slow
async def test_a_form_in_which_the_model_writes_nothing_is_given_up() -> None:
    def script(request: Request) -> Answer:
        if request.json.get("response_format", {}).get("type") == "json_schema":
            return Answer.of(
                {"error": {"message": "Failed to generate", "code": "json_validate_failed"}}, 400
            )
        return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        for _ in range(2):
            with pytest.raises(TransientError, match="Failed to generate"):
                await extract.apply(batch_of(staged(1)))
        derived = await extract.apply(batch_of(staged(1)))
    assert len(derived) == 1


@pytest.mark.slow
async def test_unexplained_refusal_reduces_what_is_asked_for() -> None:
    def script(request: Request) -> Answer:
        if "response_format" in request.json or "tools" in request.json or "temperature" in request.json:
            return Answer(400, b"Bad Request", {"content-type": "text/plain"})
        return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        derived = await extract.apply(batch_of(staged(1)))
        again = await extract.apply(batch_of(staged(2)))
        probes = extract.ctx.aggregate["probes"]
    assert len(derived) == len(again) == 1
    assert probes == 1


@pytest.mark.slow
async def test_an_endpoint_that_refuses_everything_stops_the_run() -> None:
    server = ScriptedServer(lambda request: Answer(400, b"Bad Request", {"content-type": "text/plain"}))
    async with server.running(), open_extract(server.url) as extract:
        with pytest.raises(FatalError, match="400: Bad Request: it rejects every request"):
            await extract.apply(batch_of(*FOUR))


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 4])
async def test_one_refused_document_dies_wherever_it_stands(number: int) -> None:
    def script(request: Request) -> Answer:
        if f"Person {number}" in json.dumps(request.json["messages"]):
            return Answer.of({"error": {"message": "Your input was flagged.", "code": 403}}, 403)
        return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))

    async with ScriptedServer(script).running() as server, open_extract(server.url, batch_size=1) as extract:
        derived = await extract.apply(batch_of(*FOUR))
    assert [(index, error.kind) for index, error in derived.failures] == [(number - 1, "ContentFilter")]
    assert "flagged" in str(derived.failures[0][1])


async def test_endpoint_without_a_system_role_gets_user_messages_only() -> None:
    def script(request: Request) -> Answer:
        roles = [message["role"] for message in request.json["messages"]]
        if "system" in roles:
            return Answer.of({"error": {"message": "System role not supported"}}, 400)
        assert "You extract structured fields" in request.json["messages"][0]["content"]
        return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        assert len(await extract.apply(batch_of(staged(1)))) == 1


async def test_long_prompt_gets_a_shorter_answer_limit() -> None:
    limits: list[int] = []

    def script(request: Request) -> Answer:
        limits.append(request.json["max_tokens"])
        if limits[-1] > 196:
            message = (
                "This model's maximum context length is 1000 tokens. However, you requested "
                f"{804 + limits[-1]} tokens (804 in the messages, {limits[-1]} in the completion)."
            )
            return Answer.of({"message": message, "code": 400}, 400)
        return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        assert len(await extract.apply(batch_of(staged(1)))) == 1
    assert limits == [512, 196]


@pytest.mark.slow
async def test_an_address_without_its_version_is_completed() -> None:
    def script(request: Request) -> Answer:
        if not request.path.startswith("/v1/"):
            return Answer(404, b"Not DeadLetterMatch", {"content-type": "text/plain"})
        return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))

    async with ScriptedServer(script).running() as server:
        connection = LlmConnection(base_url=server.url, api_key=SecretStr(KEY), model="m")
        async with LlmExtract(LlmParams(), connection) as extract:
            assert len(await extract.apply(batch_of(staged(1)))) == 1


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    elsewhere = ScriptedServer(lambda request: completion("{}"))
    async with elsewhere.running():
        answer = Answer(307, b"", {"location": f"{elsewhere.url}/v1/chat/completions"})
        async with ScriptedServer(lambda _: answer).running() as server, open_extract(server.url) as extract:
            with pytest.raises(FatalError, match="redirects to"):
                await extract.apply(batch_of(staged(1)))
    assert elsewhere.requests == []


async def test_nothing_of_the_environment_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-mine")
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-mine")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: header-of-mine")
    monkeypatch.setenv("HTTP_PROXY", unused_url())
    script = lambda request: completion(json.dumps({"doctor": "x"}))  # noqa: E731
    async with ScriptedServer(script).running() as server, open_extract(server.url, key="") as extract:
        await extract.apply(batch_of(staged(1)))
    assert "of-mine" not in str(server.requests[0].headers)
    assert "authorization" not in server.requests[0].headers


async def test_azure_is_asked_at_its_deployment_with_its_key_and_version() -> None:
    script = lambda request: completion(json.dumps({"doctor": "x"}))  # noqa: E731
    async with ScriptedServer(script).running() as server:
        connection = LlmConnection(
            base_url=server.url, api_key=SecretStr("k"), model="my gpt", api_version="2024-10-21"
        )
        async with LlmExtract(LlmParams(), connection) as extract:
            await extract.apply(batch_of(staged(1)))
    request = server.requests[0]
    assert request.path == "/openai/deployments/my gpt/chat/completions"
    assert request.query == "api-version=2024-10-21"
    assert request.headers["api-key"] == "k"
    assert "authorization" not in request.headers


async def test_requests_have_what_else_is_declared() -> None:
    script = lambda request: completion(json.dumps({"doctor": "x"}))  # noqa: E731
    params = LlmParams(
        seed=7, reasoning_effort="low", extra_body={"top_k": 1}, temperature=None, answer_form="json_object"
    )
    async with ScriptedServer(script).running() as server:
        connection = LlmConnection(base_url=server.url, model="m", headers={"X-Team": SecretStr("records")})
        async with LlmExtract(params, connection) as extract:
            await extract.apply(batch_of(staged(1)))
    body = server.requests[0].json
    assert {name: body[name] for name in ("seed", "reasoning_effort", "top_k")} == {
        "seed": 7, "reasoning_effort": "low", "top_k": 1,
    }  # fmt: skip
    assert body["response_format"] == {"type": "json_object"}
    assert "temperature" not in body
    assert server.requests[0].headers["x-team"] == "records"


@pytest.mark.parametrize("key", [" k\n", "k", "\tk"])
def test_white_space_around_a_key_is_no_part_of_it(key: str) -> None:
    assert LlmConnection.model_validate({"api_key": key}).api_key.get_secret_value() == "k"


@pytest.mark.parametrize("key", ["\u201ck\u201d", "a\nb", "k\u00e9y", "\ufeffk", "a\x00b"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LlmConnection.model_validate({"api_key": key})
    assert "no HTTP header can carry" in str(caught.value)
    assert key not in str(caught.value)


@pytest.mark.parametrize("body", [b"<html>", b'{"response": "a", "done": false}\n{"done": true}\n'])
async def test_a_page_that_is_no_completion_stops_the_run(body: bytes) -> None:
    answers = [Answer(200, body)] * 3
    async with ScriptedServer(answers=answers).running() as server, open_extract(server.url) as extract:
        with pytest.raises(FatalError, match="check `base_url`"):
            await extract.apply(batch_of(*FOUR))


async def until_final(extract: LlmExtract, *records: dict[str, object]) -> Batch:
    for _ in range(3):
        try:
            return await extract.apply(batch_of(*records))
        except TransientError:
            continue
    pytest.fail("retried without an end")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"choices": []}', "the completion has no choices: it rejects every request"),
        (b"<html><title>Sign\nin</title>", "but a page titled 'Sign in'; check `base_url`"),
        (b'{"models": 1, "ok": 2}', "but an object with `models`, `ok`; check `base_url`"),
        (b"Person 1 is 31", "but 14 bytes of text/plain; check `base_url`"),
    ],
)
async def test_an_endpoint_without_completions_stops_the_run(body: bytes, said: str) -> None:
    server = ScriptedServer(lambda _: Answer(200, body, {"content-type": "text/plain; charset=utf-8"}))
    async with server.running(), open_extract(server.url) as extract:
        with pytest.raises(FatalError, match=re.escape(said)):
            await until_final(extract, *FOUR)
    assert len(server.requests) < 15


async def test_calls_in_flight_at_one_hiccup_count_as_one_try() -> None:
    all_arrived = anyio.Event()

    async def answer(_: Request) -> Answer:
        if len(server.requests) > 3:
            return completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))
        if len(server.requests) == 3:
            await extract.ctx.clock.sleep(1.0)
            all_arrived.set()
        await all_arrived.wait()
        return Answer(200, b"", {"content-type": "application/json"})

    server = ScriptedServer(answer)
    async with server.running(), open_extract(server.url, batch_size=1) as extract:
        with pytest.raises(TransientError, match="0 bytes of application/json"):
            await extract.apply(batch_of(*FOUR[:3]))
        derived = await extract.apply(batch_of(*FOUR[:3]))
    assert len(derived) == 3


async def test_a_document_without_a_choice_is_a_dead_letter() -> None:
    good = completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))
    server = ScriptedServer(
        lambda request: Answer.of({"choices": []}) if b"Person 1" in request.body else good
    )
    async with server.running(), open_extract(server.url) as extract:
        derived = await until_final(extract, staged(1))
    assert [error.kind for _, error in derived.failures] == ["RequestRefused"]
    assert "the completion has no choices" in str(derived.failures[0][1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "odd",
    [
        Answer(200, b"<html>busy</html>", {"content-type": "text/html"}),
        Answer.of({"error": {"message": "Provider returned error", "code": 502}}),
        Answer.of({"id": "c", "choices": []}),
        Answer.of({"id": "c", "choices": [{"error": {"message": "upstream", "code": 503}}]}),
    ],
)
@pytest.mark.parametrize("first", [True, False])
async def test_an_odd_answer_once_is_no_reason_to_stop(odd: Answer, first: bool) -> None:
    good = completion(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))
    answers = [odd, good, good] if first else [good, odd, good]
    async with ScriptedServer(answers=answers).running() as server, open_extract(server.url) as extract:
        written = 0
        for number in (1, 2):
            for _ in range(2):
                try:
                    written += len(await extract.apply(batch_of(staged(number))))
                except TransientError:
                    continue
                break
    assert written == 2


@pytest.mark.parametrize(
    ("choice", "usage"),
    [
        ({"message": {"content": "JSON"}}, None),
        ({"message": {"content": "JSON"}}, {"prompt_tokens": None, "completion_tokens": None}),
        ({"message": {"content": "JSON"}}, {"prompt_tokens": 5}),
        (
            {
                "message": {
                    "content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "JSON"}]
                }
            },
            None,
        ),
        ({"message": {"content": None, "reasoning_content": "JSON"}}, None),
        ({"message": {"content": "", "reasoning": "JSON"}}, None),
        ({"message": {"tool_calls": [{"function": {"name": "f", "arguments": "JSON"}}]}}, None),
        ({"message": {"function_call": {"name": "f", "arguments": "JSON"}}}, None),
        ({"message": None, "text": "JSON"}, None),
        ({"text": "JSON"}, "odd"),
    ],
)
async def test_an_answer_is_read_in_any_shape(choice: object, usage: object) -> None:
    content = json.dumps(json.dumps(dict.fromkeys(target_schema("Medical").fields, "x")))
    body = json.dumps({"choices": [{"index": 0, "finish_reason": "stop", **choice}], "usage": usage})  # type: ignore[dict-item]
    answer = Answer(200, body.replace('"JSON"', content).encode(), {"content-type": "application/json"})
    async with ScriptedServer(answers=[answer]).running() as server, open_extract(server.url) as extract:
        derived = await extract.apply(batch_of(staged(1)))
        unknown = extract.ctx.aggregate["calls_without_usage"]
    assert len(derived) == 1
    assert unknown == 1


@pytest.mark.parametrize("body", [b'{"id": "c", "choices": [{"index": 0, "mess', b'{"id": "\xff\xfe"}', b""])
async def test_an_answer_damaged_on_its_way_is_asked_for_again(body: bytes) -> None:
    server = ScriptedServer(answers=[Answer(200, body, {"content-type": "application/json"})])
    async with serving_app(server) as url, open_extract(url) as extract:
        with pytest.raises(TransientError, match="other than a chat completion"):
            await extract.apply(batch_of(staged(1)))


@pytest.mark.slow
async def test_every_sample_becomes_its_true_row_or_its_true_fate() -> None:
    truth = json.loads((DEFAULT_SAMPLES / "truth.json").read_bytes())
    model = LlmStandIn(read_transcripts(DEFAULT_SAMPLES))
    records = [
        {
            "id": path,
            "source_file_path": f"s3://unstructured-data/{path}",
            "extracted_data": decode((DEFAULT_SAMPLES / path).read_bytes(), path).content,
        }
        for path in truth
    ]
    async with serving_app(model.app) as url, open_extract(url) as extract:
        derived = await extract.apply(batch_of(*records))
    fields = target_schema("Medical").fields
    found = {row["id"]: {name: row[name] for name in fields} for row in derived.records}
    assert found == {path: fate for path, fate in truth.items() if isinstance(fate, dict)}
    assert derived.drops == {"empty document": sum(fate == "empty" for fate in truth.values())}
    assert [records[index]["id"] for index, _ in derived.failures] == [
        path for path, fate in truth.items() if fate == "corrupt"
    ]
    assert model.stats.calls < len(records) / 2


async def test_the_service_works_without_a_pipeline() -> None:
    model = LlmStandIn()
    async with serving_app(model.app) as url:
        connection = LlmConnection(base_url=f"{url}/v1", api_key=SecretStr(KEY), model="sandbox-extractor")
        async with get_llm_service(connection=connection) as llm:
            good = Document.of_text("a.txt", str(staged(1)["extracted_data"]))
            bad = Document.of_text("b.txt", "nothing of interest")
            one = await llm.extract_structured_data(good)
            first, second = await llm.extract_structured_data_batch([good, bad])
            with pytest.raises(RecordError, match="does not state"):
                await llm.extract_structured_data(bad)
    assert one["patient_name"] == "Person 1"
    assert first == one
    assert isinstance(second, RecordError)


def slots_of(request: dict[str, Any]) -> int:
    schema = request["response_format"]["json_schema"]["schema"]
    return len(schema["required"]) if "slot" in schema.get("$defs", {}) else 1


def echo(request: Request) -> str:
    """An answer in which every field says "x", with the right nonces."""
    schema = request.json["response_format"]["json_schema"]["schema"]
    texts = request.json["messages"][1]["content"]
    answer = {}
    record = schema.get("$defs", {}).get("slot")
    if record is None:
        return json.dumps(dict.fromkeys(schema["required"], "x"))
    for slot in schema["required"]:
        fields = dict.fromkeys(record["required"], "x")
        nonce = texts.split(f'slot="{slot}" nonce="')[1].split('"')[0]
        answer[slot] = fields | {"nonce": nonce}
    return json.dumps(answer)


def completion(content: str, finish: str = "stop") -> Answer:
    message = {"role": "assistant", "content": content, "refusal": None}
    return Answer.of(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [{"index": 0, "finish_reason": finish, "message": message, "logprobs": None}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
    )


async def test_values_come_with_the_span_that_supports_them() -> None:
    async with stand_in(spans_field="spans", require_grounding=["doctor"]) as (_, extract):
        derived = await extract.apply(batch_of(staged(1)))
    (record,) = derived.records
    text = str(staged(1)["extracted_data"])
    supported = {path: text[slice(*span)] for path, span in record["spans"].items()}
    assert supported["patient_name"] == "Person 1"
    assert supported["patient_age"] == "31"
    assert supported["doctor"] == "Dr. Number 1"


async def test_an_ungrounded_value_is_a_dead_letter() -> None:
    def invented(request: Request) -> Answer:
        fields = target_schema("Medical").fields
        content = json.dumps(dict.fromkeys(fields, "Person 1") | {"doctor": "Dr. Nobody"})
        return Answer.of({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]})

    async with (
        ScriptedServer(invented).running() as server,
        open_extract(server.url, require_grounding=["doctor"]) as extract,
    ):
        derived = await extract.apply(batch_of(staged(1)))
    ((_, error),) = derived.failures
    assert error.kind == "NotGrounded"
    assert "doctor" in str(error)


def test_grounding_of_a_field_that_is_not_asked_for_is_refused() -> None:
    with pytest.raises(ValidationError, match="`docter` is not one of the fields"):
        LlmParams(require_grounding=["docter"])


ITEM_FIELDS: dict[str, Any] = {"name": {"required": True}, "count": {"type": "integer"}}


def scripted_values(*replies: object) -> ScriptedServer:
    """Answers each request with one of these as JSON."""
    bodies = [
        {"choices": [{"message": {"content": json.dumps(one)}, "finish_reason": "stop"}]} for one in replies
    ]
    return ScriptedServer(answers=[Answer.of(one) for one in bodies])


async def test_records_of_one_document_have_their_own_keys_and_ids() -> None:
    found = [{"name": "Ann", "count": 1}, {"name": "Bob", "count": 2}]
    async with (
        scripted_values({"records": found}).running() as server,
        open_extract(server.url, fields=ITEM_FIELDS, many=True) as extract,
    ):
        derived = await extract.apply(batch_of(staged(1)))
    assert derived.keys.to_list() == ["key/unstr_1/0", "key/unstr_1/1"]
    assert [(one["id"], one["name"]) for one in derived.records] == [
        ("unstr_1/0", "Ann"),
        ("unstr_1/1", "Bob"),
    ]


async def test_equal_values_of_several_records_have_their_own_spans() -> None:
    records = [{"name": "Ann", "count": 1}, {"name": "Ann", "count": 2}]
    async with (
        scripted_values({"records": records}).running() as server,
        open_extract(server.url, fields=ITEM_FIELDS, many=True, spans_field="spans") as extract,
    ):
        derived = await extract.apply(batch_of(staged(1, "Ann 1\nAnn 2")))
    assert [one["spans"]["name"] for one in derived.records] == [[0, 3], [6, 9]]


FOUND = [{"name": "Bob", "count": "many"}, {"name": "Ann"}]


async def test_a_bad_record_of_many_may_be_left_out() -> None:
    async with (
        scripted_values({"records": FOUND}).running() as server,
        open_extract(server.url, fields=ITEM_FIELDS, many=True, on_bad_item="keep_valid") as extract,
    ):
        derived = await extract.apply(batch_of(staged(1)))
    assert [one["name"] for one in derived.records] == ["Ann"]
    assert derived.dead_items is None


@pytest.mark.parametrize(
    ("found", "told"), [(None, "no records"), ([], "no records"), (FOUND[:1], "no valid records")]
)
async def test_a_document_without_valid_records_is_dropped(found: object, told: str) -> None:
    async with (
        scripted_values({"records": found}).running() as server,
        open_extract(server.url, fields=ITEM_FIELDS, many=True, on_bad_item="keep_valid") as extract,
    ):
        derived = await extract.apply(batch_of(staged(1)))
    assert derived.drops == {f"{told} in the document": 1}


async def test_a_bad_record_of_many_is_a_dead_letter_that_costs_nothing_to_replay() -> None:
    async with (
        scripted_values({"records": FOUND}).running() as server,
        open_extract(server.url, fields=ITEM_FIELDS, many=True, require_grounding=["name"]) as extract,
    ):
        derived = await extract.apply(batch_of(staged(1, "Bob and Ann")))
        dead = derived.dead_items
        assert dead is not None
        (letter,) = dead.records
        patched = {**letter, "extracted_item": {"name": "Bob", "count": 3}}
        invented = {**letter, "extracted_item": {"name": "Eve"}}
        again = await extract.apply(batch_of(letter, patched, invented))
    assert [(one["id"], one["name"]) for one in derived.records] == [("unstr_1/1", "Ann")]
    assert derived.keys.to_list() == ["key/unstr_1/1"]
    assert dead.keys.to_list() == ["key/unstr_1/0"]
    assert letter["id"] == "unstr_1/0"
    assert letter["extracted_item"] == FOUND[0]
    assert len(server.requests) == 1
    assert [(one["id"], one["name"], one["count"]) for one in again.records] == [("unstr_1/0", "Bob", 3)]
    kinds = [(place, error.kind) for place, error in again.failures if isinstance(error, RecordError)]
    assert kinds == [(0, "InvalidFields"), (2, "NotGrounded")]


async def test_the_letter_of_an_item_has_no_text_that_its_replay_does_not_need() -> None:
    async with (
        scripted_values({"records": FOUND}).running() as server,
        open_extract(server.url, fields=ITEM_FIELDS, many=True) as extract,
    ):
        dead = (await extract.apply(batch_of(staged(1)))).dead_items
        assert dead is not None
        patched = {**dead.records[0], "extracted_item": {"name": "Bob"}}
        again = await extract.apply(batch_of(patched))
    assert "extracted_data" not in dead.records[0]
    assert [one["name"] for one in again.records] == ["Bob"]


async def test_answers_about_parts_of_a_document_are_merged() -> None:
    text = "\n\n".join("words " * 50 for _ in range(4))
    replies = [{"name": None, "count": 1}, {"name": "Ann", "count": None}, {"name": "Bob", "count": 3}]
    async with (
        scripted_values(*replies).running() as server,
        open_extract(
            server.url, fields=ITEM_FIELDS, split_tokens=150, split_overlap=0, batch_size=1, concurrency=1,
            merge={"count": "longest"},
        ) as extract,
    ):  # fmt: skip
        derived = await extract.apply(batch_of(staged(1, text)))
        assert len(server.requests) >= 2
    assert [one["name"] for one in derived.records] == ["Ann"]


async def test_a_document_is_divided_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def divided(document: Document, tokens: int, overlap: int) -> list[Document]:
        threads.append(get_ident())
        return splitting.divided(document, tokens, overlap)

    monkeypatch.setattr("connectors.llm.extract.divided", divided)
    async with stand_in(split_tokens=100) as (_, extract):
        await extract.apply(batch_of(staged(1, "Patient: Ann. " * 50)))
    assert threads
    assert get_ident() not in threads


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 5])
async def test_an_estimate_is_within_a_tenth_of_the_bill(batch_size: int) -> None:
    records = [staged(number) for number in range(1, 10)]
    prices: dict[str, Any] = {"usd_per_million_input": 2.0, "usd_per_million_output": 8.0}
    model = LlmStandIn()
    async with serving_app(model.app) as url:
        async with open_extract(url, batch_size=batch_size, **prices) as extract:
            estimate = await extract.estimate(records[:3], 10)
            assert model.stats.calls == 0
            await extract.apply(batch_of(*records, staged(10)))
    stats = model.stats
    bill = (2 * stats.prompt_tokens + 8 * stats.completion_tokens) / 1_000_000
    assert estimate.calls == stats.calls
    assert estimate.tokens_in == pytest.approx(stats.prompt_tokens, rel=0.1)
    assert estimate.cost_usd == pytest.approx(bill, rel=0.1)


@pytest.mark.slow
async def test_an_unknown_price_is_reported_and_not_guessed() -> None:
    extract = LlmExtract(LlmParams(model="nobody-knows-1"), LlmConnection())
    estimate = await extract.estimate([staged(1)], 5)
    assert (estimate.calls, estimate.cost_usd) == (1, None)
    assert any("nobody-knows-1" in note for note in estimate.notes)
