"""Extraction over a socket: the sandbox's stand-in with faults, and endpoints that answer by script."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from connectors.llm import Document, LlmConnection, LlmExtract, LlmParams, get_llm_service
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
from engine.sandbox.loopback import serve_loopback
from engine.sandbox.server import DEFAULT_SAMPLES, read_transcripts
from engine.testing import ScriptedClock
from tests.integration.scripted_http import Answer, Request, ScriptedServer, unused_url

KEY = "sandbox"


def staged(number: int, text: str | None = None, **changes: object) -> dict[str, object]:
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
async def open_extract(url: str, key: str = KEY, **params: object) -> AsyncIterator[LlmExtract]:
    connection = LlmConnection(base_url=f"{url}/v1", api_key=key, model="sandbox-extractor")
    extract = LlmExtract(LlmParams(**params), connection)
    extract.ctx = Context(clock=ScriptedClock(jump=True))
    async with extract:
        yield extract


@asynccontextmanager
async def stand_in(*faults: Fault | None, **params: object) -> AsyncIterator[tuple[LlmStandIn, LlmExtract]]:
    model = LlmStandIn(faults=faults)
    async with serve_loopback(model.app) as url, open_extract(url, **params) as extract:
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


async def test_non_json_answer_is_retried_document_by_document() -> None:
    async with stand_in(MalformedJson()) as (model, extract):
        derived = await extract.apply(batch_of(*FOUR))
    assert names(derived) == EVERYBODY
    assert model.stats.calls == 5


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

    async with ScriptedServer(script).running() as server, open_extract(server.url) as extract:
        derived = await extract.apply(batch_of(*FOUR))
    assert len(derived) == 4
    assert [request["max_tokens"] for request in requests] == [4000, 8000, 4000, 4000]
    assert [slots_of(request) for request in requests] == [4, 4, 2, 2]


async def test_a_lone_document_cut_off_twice_is_dead() -> None:
    async with stand_in(Truncated(), Truncated()) as (model, extract):
        derived = await extract.apply(batch_of(staged(1)))
    assert derived.failures[0][1].kind == "AnswerTruncated"
    assert model.stats.calls == 2


async def test_refused_pack_is_split_and_only_the_refused_one_dies() -> None:
    def refuse_third(documents) -> Fault | None:
        return Refusal() if any("Person 3" in document.text for document in documents) else None

    model = LlmStandIn(faults=refuse_third)
    async with serve_loopback(model.app) as url, open_extract(url) as extract:
        derived = await extract.apply(batch_of(*FOUR))
    assert sorted(names(derived)) == ["unstr_1", "unstr_2", "unstr_4"]
    assert [(index, error.kind) for index, error in derived.failures] == [(2, "Refused")]
    assert model.stats.calls == 5


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
    async with serve_loopback(model.app) as url, open_extract(url, batch_size=2) as extract:
        derived = await extract.apply(batch_of(*FOUR))
    assert sorted(names(derived)) == ["unstr_1", "unstr_2"]
    assert [index for index, _ in derived.failures] == [2, 3]
    assert all(isinstance(error, TransientError) for _, error in derived.failures)


async def test_a_wrong_key_stops_the_run_and_is_not_shown() -> None:
    model = LlmStandIn()
    async with serve_loopback(model.app) as url, open_extract(url, key="sk-geheim") as extract:
        with pytest.raises(FatalError) as caught:
            await extract.apply(batch_of(*FOUR))
    assert f"{url}/v1 answered 401 (invalid_api_key): the API key is missing, wrong" in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert caught.value.kind == "auth"


async def test_an_unknown_model_stops_the_run() -> None:
    async with stand_in(model="gpt-0") as (_, extract):
        with pytest.raises(FatalError, match="no model 'gpt-0' there"):
            await extract.apply(batch_of(*FOUR))


async def test_a_used_up_quota_is_no_rate_limit() -> None:
    quota = HttpError(429, "insufficient_quota", "You exceeded your current quota.", "insufficient_quota")
    async with stand_in(quota) as (_, extract):
        with pytest.raises(FatalError, match="quota is exhausted") as caught:
            await extract.apply(batch_of(*FOUR))
    assert caught.value.kind == "budget"


async def test_nobody_at_the_endpoint_is_transient_and_named() -> None:
    url = unused_url()
    async with open_extract(url) as extract:
        with pytest.raises(TransientError, match=f"no model endpoint is listening at {url}/v1"):
            await extract.apply(batch_of(*FOUR))


async def test_a_prompt_too_long_for_the_model_is_halved_until_it_fits() -> None:
    long = staged(2, text="Patient: Person 2\n" + "filler " * 6_000)
    model = LlmStandIn(context_tokens=3_000)
    async with serve_loopback(model.app) as url, open_extract(url, pack_tokens=100_000) as extract:
        derived = await extract.apply(batch_of(staged(1), long, staged(3), staged(4)))
    assert sorted(names(derived)) == ["unstr_1", "unstr_3", "unstr_4"]
    assert [(index, error.kind) for index, error in derived.failures] == [(1, "DocumentTooLong")]


async def test_what_needs_no_model_costs_no_call() -> None:
    async with stand_in(max_document_tokens=100) as (model, extract):
        records = [
            staged(1, text=" \n"),
            staged(2, text="word " * 200),
            staged(3, text="[PDF_DATA]data:application/pdf;base64,bm90IGEgcGRm"),
            staged(4, id=7),
        ]
        derived = await extract.apply(batch_of(*records))
    assert model.stats.calls == 0
    assert derived.drops == {"empty document": 1}
    kinds = [(index, error.kind) for index, error in derived.failures]
    assert kinds == [(1, "DocumentTooLong"), (2, "CorruptDocument"), (3, "NotStaged")]


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
    systems = {slots_of(request): request["messages"][0]["content"] for request in requests}
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
    assert requests[-1]["max_completion_tokens"] == 4000


async def test_a_schema_the_endpoint_does_not_take_stops_the_run() -> None:
    error = {"message": "no", "type": "invalid_request_error", "param": "response_format", "code": None}
    answers = [Answer.of({"error": error}, 400)]
    async with ScriptedServer(answers=answers).running() as server, open_extract(server.url) as extract:
        with pytest.raises(FatalError, match="does not support our 'response_format'"):
            await extract.apply(batch_of(*FOUR))


async def test_a_page_that_is_no_completion_stops_the_run() -> None:
    answers = [Answer(200, b"<html>", {"content-type": "text/html"})]
    async with ScriptedServer(answers=answers).running() as server, open_extract(server.url) as extract:
        with pytest.raises(FatalError, match="check `base_url`"):
            await extract.apply(batch_of(*FOUR))


@pytest.mark.parametrize("body", [b'{"id": "c", "choices": [{"index": 0, "mess', b'{"id": "\xff\xfe"}', b""])
async def test_an_answer_damaged_on_its_way_is_asked_for_again(body: bytes) -> None:
    server = ScriptedServer(answers=[Answer(200, body, {"content-type": "application/json"})])
    async with serve_loopback(server) as url, open_extract(url) as extract:
        with pytest.raises(TransientError, match="not a chat completion"):
            await extract.apply(batch_of(staged(1)))


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
    async with serve_loopback(model.app) as url, open_extract(url) as extract:
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
    async with serve_loopback(model.app) as url:
        connection = LlmConnection(base_url=f"{url}/v1", api_key=KEY, model="sandbox-extractor")
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


def slots_of(request: dict[str, object]) -> int:
    return len(request["response_format"]["json_schema"]["schema"]["required"])


def echo(request: Request) -> str:
    """An answer in which every field says "x", with the right nonces."""
    schema = request.json["response_format"]["json_schema"]["schema"]
    texts = "".join(part.get("text", "") for part in request.json["messages"][1]["content"])
    answer = {}
    for slot in schema["required"]:
        fields = dict.fromkeys(schema["properties"][slot]["required"], "x")
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
