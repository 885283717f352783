"""Documents in jobs of a Batch API: outcomes, resumes, and early ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import SecretStr

from connectors.llm import batch_jobs, client
from connectors.llm.documents import Document
from connectors.llm.pricing import Usage, price_of
from connectors.llm.service import Fate, LLMService, get_llm_service
from connectors.llm.settings import LlmConnection, LlmParams
from engine.contract.clock import SystemClock
from engine.contract.journal import JournalEntry
from engine.contract.lease import NoLease
from engine.errors import FatalError, LeaseLostError, RecordError, StoppingError, TransientError
from engine.execution.journal import Journal
from engine.state import JournalFilter
from engine.state.memory import MemoryStateStore
from engine.testing import ScriptedClock
from tests.unit.connectors.llm.batch_api import BatchApi, completed


class Losable(NoLease):
    """A lease that another process may take."""

    is_lost = False

    async def confirm(self) -> None:
        if self.is_lost:
            raise LeaseLostError("gone")


class World:
    """A Batch API, a journal, and services that come and go."""

    def __init__(self, store: MemoryStateStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.api = BatchApi()
        self.journal = Journal(store, ScriptedClock(jump=True))
        self.stopping = False
        self.lease = Losable()
        self.paid = Usage()
        self.counts: Counter[str] = Counter()

        @asynccontextmanager
        async def opened(*_: object) -> AsyncIterator[BatchApi]:
            yield self.api

        monkeypatch.setattr(client, "open_sdk", opened)

    def service(self, run_id: str = "run-1", key: str = "", **params: Any) -> LLMService:
        given = {"mode": "batch", "batch_size": 2, "batch_linger": 0.1, "model": "gpt-4o-mini", **params}
        return get_llm_service(
            LlmParams.model_validate(given),
            LlmConnection(api_key=SecretStr(key)),
            clock=ScriptedClock(jump=True),
            journal=self.journal.of_node("memos", "extract", run_id),
            draining=lambda: self.stopping,
            lease=self.lease,
            on_count=self._count,
        )

    async def ask(
        self, count: int = 4, run_id: str = "run-1", key: str = "", **params: Any
    ) -> Sequence[Fate]:
        service = self.service(run_id, key, **params)
        documents = [Document.of_text(f"d{number}", f"text {number}") for number in range(count)]
        async with service:
            return await service.extract_structured_data_batch(documents, on_usage=self._book)

    def _count(self, name: str, amount: float = 1) -> None:
        self.counts[name] += int(amount)

    def _book(self, _places: Sequence[int], usage: Usage) -> None:
        self.paid = self.paid.plus(usage)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async with MemoryStateStore() as store:
        yield World(store, monkeypatch)


def doctors(fates: Sequence[Fate]) -> list[object]:
    return [fate["doctor"] if isinstance(fate, dict) else type(fate).__name__ for fate in fates]


WHOLE = [f"text {number}" for number in range(4)]


@pytest.mark.slow
async def test_calls_of_a_batch_are_lines_of_one_job(world: World) -> None:
    assert doctors(await world.ask()) == WHOLE
    assert len(world.api.jobs) == 1
    assert len(world.api.lines) == 2
    body = world.api.lines[0]["body"]
    assert (world.api.lines[0]["url"], body["model"]) == ("/v1/chat/completions", "gpt-4o-mini")
    assert body["response_format"]["type"] == "json_schema"


@pytest.mark.slow
async def test_lines_cost_half(world: World) -> None:
    await world.ask()
    whole = price_of("gpt-4o-mini", LlmParams())
    assert (world.paid.tokens_in, world.paid.tokens_out) == (200, 20)
    assert world.paid.cost_usd == pytest.approx(whole.of(200, 20) / 2)


@pytest.mark.slow
async def test_a_job_takes_so_many_requests(world: World) -> None:
    assert doctors(await world.ask(4, batch_size=1, batch_requests=3)) == WHOLE
    assert [len(job["lines"]) for job in world.api.jobs.values()] == [3, 1]


async def test_answers_are_in_the_journal_afterwards(world: World) -> None:
    await world.ask()
    assert doctors(await world.ask(run_id="run-2")) == WHOLE
    assert len(world.api.jobs) == 1


@pytest.mark.parametrize("moment", ["before_created", "after_created", "looking"])
async def test_no_line_is_paid_twice_whenever_it_ends(world: World, moment: str) -> None:
    class Killed(BaseException): ...

    def kill() -> None:
        raise Killed

    if moment == "looking":
        world.api.batches.retrieve, kept = lambda _job: kill(), world.api.batches.retrieve
    else:
        setattr(world.api, moment, kill)
    with pytest.raises(BaseException) as caught:
        await world.ask()
    group = isinstance(caught.value, BaseExceptionGroup)
    assert caught.group_contains(Killed) if group else caught.type is Killed
    world.api.before_created = world.api.after_created = lambda: None
    if moment == "looking":
        world.api.batches.retrieve = kept
    assert doctors(await world.ask()) == WHOLE
    assert len(world.api.jobs) == 1
    assert (world.paid.tokens_in, world.paid.tokens_out) == (200, 20)
    assert doctors(await world.ask()) == WHOLE
    assert (world.paid.tokens_in, len(world.api.jobs)) == (200, 1)


async def test_each_look_at_a_job_counts_as_progress(world: World) -> None:
    """Else a worker's watch would take a job of some hours for a chunk that is stuck."""
    world.api.looks = 3
    await world.ask()
    assert world.counts["batch_looks"] == 3


async def test_a_run_that_stops_leaves_its_job_to_the_next(world: World) -> None:
    def stop() -> None:
        world.stopping = True

    world.api.after_created = stop
    fates = await world.ask()
    assert all(isinstance(fate, StoppingError) for fate in fates)
    assert world.api.cancelled == []
    world.stopping = False
    assert doctors(await world.ask()) == WHOLE
    assert len(world.api.jobs) == 1


async def test_jobs_are_cancelled_if_configured(world: World) -> None:
    def stop() -> None:
        world.stopping = True

    world.api.after_created = stop
    await world.ask(batch_cancel=True)
    assert world.api.cancelled == ["batch-0"]


async def test_no_job_is_created_without_the_lease(world: World) -> None:
    world.lease.is_lost = True
    with pytest.raises(LeaseLostError):
        await world.ask()
    assert world.api.jobs == {}
    world.lease.is_lost = False
    assert doctors(await world.ask()) == WHOLE
    assert len(world.api.jobs) == 1


async def test_no_job_is_cancelled_without_the_lease(world: World) -> None:
    def stop() -> None:
        world.stopping = world.lease.is_lost = True

    world.api.after_created = stop
    await world.ask(batch_cancel=True)
    assert world.api.cancelled == []


def response(status: int, body: object) -> dict[str, Any]:
    return {"response": {"status_code": status, "body": body}}


@pytest.mark.parametrize(
    ("odd", "fate"),
    [
        (response(400, {"error": {"message": "flagged", "code": "content_filter"}}), RecordError),
        (response(429, {"error": {"message": "slow down"}}), TransientError),
        ({"error": {"code": "batch_expired", "message": "This request expired"}}, TransientError),
        (None, TransientError),
    ],
    ids=["filtered", "throttled", "expired", "missing"],
)
async def test_a_failed_line_has_the_fate_of_a_failed_call(
    world: World, odd: Mapping[str, Any] | None, fate: type[Exception]
) -> None:
    world.api._answerer = lambda line: (
        odd if "text 1\n" in str(line["body"]["messages"][-1]["content"]) else completed(line)
    )
    fates = await world.ask(3, batch_size=1)
    assert isinstance(fates[1], fate)
    assert [doctors(fates)[place] for place in (0, 2)] == ["text 0", "text 2"]


@pytest.mark.parametrize("status", ["expired", "cancelled"])
async def test_what_a_job_has_answered_before_it_ended_counts(world: World, status: str) -> None:
    world.api.status = status
    world.api._answerer = lambda line: completed(line) if line["custom_id"] == "0" else None
    fates = await world.ask(2, batch_size=1)
    assert doctors(fates) == ["text 0", "TransientError"]
    world.api.status, world.api._answerer = "completed", completed
    assert doctors(await world.ask(2, batch_size=1)) == ["text 0", "text 1"]
    assert len(world.api.lines) == 3


async def test_a_job_that_the_endpoint_has_no_room_for_is_tried_again(world: World) -> None:
    world.api.status = "failed"
    world.api.errors = [SimpleNamespace(code="token_limit_exceeded", message="Enqueued token limit reached")]
    assert all(isinstance(fate, TransientError) for fate in await world.ask())
    world.api.status = "completed"
    assert doctors(await world.ask()) == WHOLE


async def test_an_unreadable_answer_is_asked_for_again(world: World) -> None:
    def once(line: Mapping[str, Any]) -> dict[str, Any]:
        answer = completed(line)
        if len(world.api.jobs) == 1:
            answer["response"]["body"]["choices"][0]["message"]["content"] = "no JSON"
        return answer

    world.api._answerer = once
    assert doctors(await world.ask()) == WHOLE
    assert len(world.api.jobs) == 2


async def test_an_endpoint_without_the_api_ends_the_run(world: World) -> None:
    import httpx
    import openai

    async def refused(**_: object) -> None:
        answer = httpx.Response(404, text="not found", request=httpx.Request("POST", "http://h/v1/files"))
        raise openai.NotFoundError("404", response=answer, body=None)  # type: ignore[arg-type]

    world.api.files.create = refused
    with pytest.raises(FatalError, match="mode: direct"):
        await world.ask()


async def test_a_cut_answer_of_an_earlier_job_is_asked_for_again(world: World) -> None:
    def cut(line: Mapping[str, Any]) -> dict[str, Any]:
        answer = completed(line)
        if len(world.api.jobs) == 1:
            answer["response"]["body"]["choices"][0]["finish_reason"] = "length"
            message = answer["response"]["body"]["choices"][0]["message"]
            message["content"] = message["content"].replace('"text 0"', '"te"')
        return answer

    world.api._answerer = cut
    world.api.after_created = lambda: setattr(world, "stopping", True)
    await world.ask(1)
    world.stopping, world.api.after_created = False, lambda: None
    assert doctors(await world.ask(1)) == ["text 0"]


async def test_a_second_job_that_was_lost_sight_of_is_taken_up(world: World) -> None:
    """Its questions were in a job before, whose answers could not be read."""
    import httpx
    import openai

    def once(line: Mapping[str, Any]) -> dict[str, Any]:
        answer = completed(line)
        if len(world.api.jobs) == 1:
            answer["response"]["body"]["choices"][0]["message"]["content"] = "no JSON"
        return answer

    def lost() -> None:
        if len(world.api.jobs) == 2:
            raise openai.APITimeoutError(httpx.Request("POST", "http://h/v1/batches"))  # type: ignore[arg-type]

    world.api._answerer, world.api.after_created = once, lost
    async with world.service() as service:
        documents = [Document.of_text("d0", "text 0")]
        first = await service.extract_structured_data_batch(documents)
        assert isinstance(first[0], TransientError)
        assert doctors(await service.extract_structured_data_batch(documents)) == ["text 0"]
    assert len(world.api.jobs) == 2


def refusing(status: int, text: str) -> Any:
    import httpx
    import openai

    async def refuse(*_: object, **__: object) -> None:
        answer = httpx.Response(status, text=text, request=httpx.Request("POST", "http://h/v1/batches"))
        raise openai.APIStatusError(text, response=answer, body=None)  # type: ignore[arg-type]

    return refuse


async def test_a_job_without_a_known_file_is_found_by_its_id(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As jobs of earlier versions are in the journal."""
    entries = batch_jobs._pending_entries

    def without_file(job: Any) -> list[JournalEntry]:
        return [replace(one, answer=one.answer.replace('"file"', '"mark"')) for one in entries(job)]

    monkeypatch.setattr(batch_jobs, "_pending_entries", without_file)
    world.api.after_created = lambda: setattr(world, "stopping", True)
    await world.ask(1)
    world.stopping, world.api.after_created = False, lambda: None
    assert doctors(await world.ask(1)) == ["text 0"]
    assert len(world.api.jobs) == 1


async def test_a_job_that_the_endpoint_has_forgotten_is_asked_again(world: World) -> None:
    world.api.after_created = lambda: setattr(world, "stopping", True)
    await world.ask(1)
    world.stopping, world.api.after_created = False, lambda: None
    kept, world.api.batches.retrieve = world.api.batches.retrieve, None

    async def retrieve(job_id: str) -> Any:
        return await (refusing(404, "no such batch")() if job_id == "batch-0" else kept(job_id))

    world.api.batches.retrieve = retrieve
    assert doctors(await world.ask(1)) == ["text 0"]


async def test_an_error_of_the_api_does_not_repeat_the_key(world: World) -> None:
    world.api.files.create = refusing(403, '{"error": {"message": "the key sk-secret-1 may not"}}')
    with pytest.raises(FatalError) as caught:
        await world.ask(1, key="sk-secret-1")
    assert "sk-secret-1" not in str(caught.value)


def test_flex_is_sent_costs_half_and_has_time() -> None:
    params = LlmParams(service_tier="flex", seed=3)
    assert params.sent == {"service_tier": "flex", "seed": 3}
    assert params.extras == {"seed": 3}  # answers are the same in every tier
    assert price_of("gpt-4o-mini", params) == price_of("gpt-4o-mini", LlmParams()).halved()
    own = LlmParams(service_tier="flex", usd_per_million_input=1, usd_per_million_output=2)
    assert price_of("m", own).of(1_000_000, 0) == 1.0
    assert (params.longest, LlmParams(service_tier="flex", timeout=5).longest) == (900.0, 5.0)


@pytest.mark.parametrize(
    ("code", "fate"),
    [
        ("200", "text 1"),
        (None, "text 1"),
        ("OK", "text 1"),
        (200.0, "text 1"),
        (True, "text 1"),
        ("503", "TransientError"),
    ],
)
async def test_the_status_of_a_line_may_be_of_any_kind(world: World, code: object, fate: str) -> None:
    def odd(line: Mapping[str, Any]) -> dict[str, Any]:
        answer = completed(line)
        if "text 1\n" in str(line["body"]["messages"][-1]["content"]):
            answer["response"]["status_code"] = code
        return answer

    world.api._answerer = odd
    assert doctors(await world.ask(2, batch_size=1)) == ["text 0", fate]


@pytest.mark.parametrize("body", [None, [], 7, ""])
async def test_a_line_without_a_body_is_asked_again(world: World, body: object) -> None:
    world.api._answerer = lambda line: response(200, body) if len(world.api.jobs) == 1 else completed(line)
    assert doctors(await world.ask(1)) == ["TransientError"]
    assert doctors(await world.ask(1)) == ["text 0"]


async def test_a_job_of_another_run_is_not_cancelled(world: World) -> None:
    world.api.looks = 9
    world.api.after_created = lambda: setattr(world, "stopping", True)
    await world.ask()
    world.api.after_created = lambda: None
    world.stopping, looks = False, world.api.batches.retrieve

    async def stop(job_id: str) -> Any:
        world.stopping = True
        return await looks(job_id)

    world.api.batches.retrieve = stop
    await world.ask(run_id="run-2", batch_cancel=True)
    assert world.api.cancelled == []
    world.stopping = False
    await world.ask(run_id="run-1", batch_cancel=True)
    assert world.api.cancelled == ["batch-0"]


def job_error(code: str, message: str, line: int | None = None) -> SimpleNamespace:
    return SimpleNamespace(code=code, message=message, line=line, param=None)


@pytest.mark.parametrize(
    "errors",
    [
        [],
        [job_error("mismatched_model", "All lines must have the same model")],
        [job_error("invalid_url", "The URL does not match", line) for line in (1, 2)],
        [job_error("billing_hard_limit_reached", "Billing hard limit has been reached", 1)],
    ],
    ids=["unclear", "said", "all lines", "money"],
)
async def test_a_job_that_fails_as_a_whole_stops_the_run(world: World, errors: list[SimpleNamespace]) -> None:
    world.api.status, world.api.errors = "failed", errors
    with pytest.raises(FatalError, match="batch-0 failed as a whole") as caught:
        await world.ask()
    assert all(one.message in str(caught.value) for one in errors)
    world.api.status = "completed"
    assert doctors(await world.ask()) == WHOLE


async def test_a_line_that_a_job_fails_for_fails_alone(world: World) -> None:
    world.api.status, world.api.errors = "failed", [job_error("x", "content is flagged by safety", 2)]
    fates = await world.ask(3, batch_size=1)
    assert doctors(fates) == ["TransientError", "RecordError", "TransientError"]
    world.api.status = "completed"
    assert doctors(await world.ask(3, batch_size=1))[::2] == ["text 0", "text 2"]


@pytest.mark.parametrize("code", ["x", "token_limit_exceeded"])
async def test_a_failed_job_quotes_no_document(world: World, code: str) -> None:
    quoted = "value of r1: the patient has a secret disease"
    world.api.status, world.api.errors = "failed", [job_error(code, f"invalid {quoted}")]
    service = world.service(batch_size=1)
    documents = [Document.of_text("a", "text"), Document.of_text("b", f"{quoted} indeed")]
    async with service:
        try:
            fates = await service.extract_structured_data_batch(documents)
        except FatalError as error:
            fates = [error]  # type: ignore[list-item]
    assert "secret disease" not in str(fates)


async def test_an_unreadable_answer_of_an_earlier_job_is_booked_once(world: World) -> None:
    def once(line: Mapping[str, Any]) -> dict[str, Any]:
        answer = completed(line)
        if len(world.api.jobs) == 1:
            answer["response"]["body"]["choices"][0]["message"]["content"] = "no JSON"
        return answer

    world.api._answerer = once
    world.api.after_created = lambda: setattr(world, "stopping", True)
    await world.ask(1)
    looks = world.api.batches.retrieve

    async def stop(job_id: str) -> Any:
        found = await looks(job_id)
        world.stopping = found.status == "completed"
        return found

    world.api.batches.retrieve = stop
    world.stopping = False
    await world.ask(1)  # the answer is read, and the run stops before the next job is created
    assert (world.paid.tokens_in, len(world.api.jobs)) == (100, 1)
    world.stopping, world.api.after_created = False, lambda: None
    assert doctors(await world.ask(1)) == ["text 0"]
    assert world.paid.tokens_in == 200


async def test_running_jobs_are_neither_listed_nor_purged(world: World) -> None:
    store = world.journal.state
    world.journal.clock = SystemClock()
    world.api.after_created = lambda: setattr(world, "stopping", True)
    await world.ask()
    assert await store.list_journal(JournalFilter()) == []
    assert await store.purge_journal(JournalFilter()) == 0
    world.stopping, world.api.after_created = False, lambda: None
    assert doctors(await world.ask()) == WHOLE
    assert len(world.api.jobs) == 1
    # what is purged afterwards is asked for again, not taken from the old job
    assert await store.purge_journal(JournalFilter()) == 4
    assert doctors(await world.ask()) == WHOLE
    assert len(world.api.jobs) == 2


@pytest.mark.parametrize(
    "errors",
    [[job_error("insufficient_quota", "You exceeded your current quota")], [job_error("x", "no such thing")]],
    ids=["quota", "unclear"],
)
async def test_a_fallback_takes_over_when_a_job_fails(
    world: World, errors: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.api.errors = errors
    create = world.api.batches.create

    async def created(**given: Any) -> Any:
        found = await create(**given)
        world.api.status = "completed" if len(world.api.jobs) > 1 else "failed"
        return found

    world.api.batches.create = created
    fallback = {"model": "spare", "usd_per_million_input": 0, "usd_per_million_output": 0}
    assert doctors(await world.ask(fallbacks=[fallback])) == WHOLE
    assert [job["lines"][0]["body"]["model"] for job in world.api.jobs.values()] == ["gpt-4o-mini", "spare"]
    assert world.counts["unavailable[gpt-4o-mini]"] == 1


async def test_a_bare_list_in_an_earlier_job_is_its_records(world: World) -> None:
    """As in a direct answer: with `many`, the list may be the whole reply."""

    def listed(line: Mapping[str, Any]) -> dict[str, Any]:
        found = completed(line)
        message = found["response"]["body"]["choices"][0]["message"]
        message["content"] = f"[{message['content']}]"
        return found

    world.api = BatchApi(listed)
    world.api.after_created = lambda: setattr(world, "stopping", True)
    await world.ask(1, many=True)
    world.stopping, world.api.after_created = False, lambda: None

    (fate,) = await world.ask(1, many=True)
    assert isinstance(fate, dict)
    (record,) = cast("list[dict[str, object]]", fate["records"])
    assert record["doctor"] == "text 0"
    assert len(world.api.lines) == 1
