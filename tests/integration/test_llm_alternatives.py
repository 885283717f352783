"""Cascades and fallbacks over a socket: an endpoint with several models that behave differently."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, ValidationError, field_validator

from connectors.llm import LlmConnection, LlmExtract, LlmParams
from connectors.llm.settings import LlmEndpoint
from engine.config import load_mapping
from engine.contract.allowances import NoSpending, Spending
from engine.contract.component import Context
from engine.errors import FatalError, RecordError, TransientError
from engine.execution.journal import Journal, NodeJournal
from engine.execution.spending import PipelineSpending
from engine.plan.compile import compile_file
from engine.registry import Registry
from engine.state.memory import MemoryStateStore
from engine.testing import ScriptedClock
from tests.integration.scripted_http import Answer, Request, ScriptedServer, unused_url
from tests.integration.test_llm import batch_of, staged

FIELDS = {"total": {"type": "integer", "required": True}, "vendor": {}}
RIGHT = {"total": 12, "vendor": "ACME"}
TEXT = "ACME, total 12"
DEAR = {"model": "dear", "usd_per_million_input": 50, "usd_per_million_output": 50}
FREE = {"usd_per_million_input": 0, "usd_per_million_output": 0}


class Models(ScriptedServer):
    """An endpoint whose models give these answers, or end with this status."""

    def __init__(self, **answers: dict[str, Any] | int) -> None:
        super().__init__(self.answer)
        self.answers = answers

    @property
    def asked(self) -> list[str]:
        return [request.json["model"] for request in self.requests]

    def answer(self, request: Request) -> Answer:
        answer = self.answers[request.json["model"]]
        if isinstance(answer, int):
            return Answer.of({"error": {"message": "no"}}, answer)
        message = {"role": "assistant", "content": json.dumps(answer)}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        return Answer.of({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


@pytest.fixture
async def journal() -> AsyncIterator[NodeJournal]:
    async with MemoryStateStore() as store:
        yield Journal(store, ScriptedClock(jump=True)).of_node("p", "extract", "run-1")


@asynccontextmanager
async def opened(
    server: Models,
    journal: NodeJournal,
    *,
    endpoints: dict[str, LlmEndpoint] | None = None,
    spending: Spending | None = None,
    **params: Any,
) -> AsyncIterator[LlmExtract]:
    connection = LlmConnection(
        base_url=f"{server.url}/v1", api_key=SecretStr("k"), model="cheap", endpoints=endpoints or {}
    )
    options: dict[str, Any] = {
        "fields": FIELDS,
        "batch_size": 1,
        "usd_per_million_input": 1,
        "usd_per_million_output": 1,
    }
    if "schema" in params:
        del options["fields"]
    extract = LlmExtract(LlmParams.model_validate(options | params), connection)
    extract.ctx = Context(clock=ScriptedClock(jump=True), journal=journal, spending=spending or NoSpending())
    async with extract:
        yield extract


@pytest.mark.parametrize(
    ("cheap", "more"),
    [
        ({"vendor": "ACME"}, {}),  # MissingFields
        ({"total": 13, "vendor": "ACME"}, {"require_grounding": ["total"]}),  # NotGrounded
        pytest.param({"total": "a dozen", "vendor": "ACME"}, {}, marks=pytest.mark.series),  # InvalidFields
    ],
    ids=["missing", "ungrounded", "invalid"],
)
async def test_the_dear_model_is_asked_where_the_cheap_one_fails(
    cheap: dict[str, Any], more: dict[str, Any], journal: NodeJournal
) -> None:
    async with Models(cheap=cheap, dear=RIGHT).running() as server:
        async with opened(server, journal, cascade=[DEAR], **more) as extract:
            batch = batch_of(staged(1, TEXT))
            derived = await extract.apply(batch)
            counts = extract.ctx.aggregate
        calls = server.asked.count("cheap")
        assert server.asked == ["cheap"] * calls + ["dear"]
    assert [{**record, "id": ""} for record in derived.records] == [{**RIGHT, "id": ""}]
    assert counts["escalated"] == 1
    assert counts["calls[cheap]"] == calls
    assert counts["calls[dear]"] == 1
    assert counts["cost_usd[dear]"] == pytest.approx(110 * 50 / 1_000_000)
    tally = batch.origins[0][0].tally
    assert tally.cost_usd == pytest.approx(110 * (calls + 50) / 1_000_000)


@pytest.mark.slow
async def test_a_resume_pays_for_no_stage_again(journal: NodeJournal) -> None:
    async with Models(cheap={"vendor": "ACME"}, dear=RIGHT).running() as server:
        for _ in range(2):
            async with opened(server, journal, cascade=[DEAR]) as extract:
                derived = await extract.apply(batch_of(staged(1, TEXT)))
            assert server.asked == ["cheap", "dear"]
            assert derived.records[0]["total"] == 12
    assert extract.ctx.aggregate["journal_hits"] == 2


@pytest.mark.slow
async def test_a_stage_that_is_tried_again_costs_once(journal: NodeJournal) -> None:
    """The dear model is busy at first: what the cheap one has cost is booked already when it comes back."""
    async with Models(cheap={"vendor": "ACME"}, dear=429).running() as server:
        async with opened(server, journal, cascade=[DEAR]) as extract:
            batch = batch_of(staged(1, TEXT))
            with pytest.raises(TransientError):
                await extract.apply(batch)
            server.answers["dear"] = RIGHT
            await extract.apply(batch)
    assert server.asked == ["cheap", "dear", "dear"]
    assert batch.origins[0][0].tally.tokens_in == 200


@pytest.mark.slow
async def test_only_failed_documents_are_escalated_and_the_last_error_stays(journal: NodeJournal) -> None:
    async with Models(cheap=RIGHT, dear={"vendor": "ACME"}).running() as server:
        async with opened(server, journal, cascade=[DEAR], require_grounding=["vendor"]) as extract:
            derived = await extract.apply(batch_of(staged(1, TEXT), staged(2, "another, total 12")))
    assert server.asked.count("dear") == 1
    assert len(derived.records) == 1
    ((place, error),) = derived.failures
    assert isinstance(error, RecordError)
    assert (place, error.kind) == (1, "MissingFields")


@pytest.mark.slow
async def test_a_budget_counts_the_calls_of_all_stages(journal: NodeJournal) -> None:
    dear = {"model": "dear", "usd_per_million_input": 1e6, "usd_per_million_output": 1e6}
    async with Models(cheap={"vendor": "ACME"}, dear=RIGHT).running() as server:
        async with opened(server, journal, cascade=[dear], budget_usd=0.01) as extract:
            with pytest.raises(FatalError, match=r"the budget of 0\.01 USD"):
                await extract.apply(batch_of(staged(1, TEXT)))
        assert server.asked == ["cheap"]
        async with opened(server, journal, cascade=[dear], budget_usd=1_000) as extract:
            await extract.apply(batch_of(staged(1, TEXT)))
        assert server.asked == ["cheap", "dear"]


@pytest.mark.slow
async def test_a_pipelines_budget_stops_before_the_call_that_exceeds_it() -> None:
    """What was in flight is kept, and the resume does not pay for it again."""
    async with MemoryStateStore() as store, Models(cheap=RIGHT).running() as server:
        clock = ScriptedClock(jump=True)
        journal = Journal(store, clock).of_node("p", "extract", "run-1")
        documents = [staged(number, f"{TEXT}, page {number}") for number in range(1, 9)]
        tight = PipelineSpending(store, clock, "p", "run-1", 0.0012, None)
        async with opened(server, journal, spending=tight) as extract:
            with pytest.raises(FatalError, match=r"`budget_usd` of 0\.0012 USD"):
                await extract.apply(batch_of(*documents))
        await tight.close()
        asked = len(server.asked)
        assert 0 < asked < 8
        raised = PipelineSpending(store, clock, "p", "run-1", 1.0, None)
        async with opened(server, journal, spending=raised) as extract:
            derived = await extract.apply(batch_of(*documents))
        assert len(server.asked) == 8
        assert len(derived.records) == 8
        assert extract.ctx.aggregate["journal_hits"] == asked


async def test_a_budget_needs_a_known_price() -> None:
    async with MemoryStateStore() as store, Models(cheap=RIGHT).running() as server:
        clock = ScriptedClock(jump=True)
        daily = PipelineSpending(store, clock, "p", "run-1", None, 5.0)
        journal = Journal(store, clock).of_node("p", "extract", "run-1")
        with pytest.raises(FatalError, match="the price of the model 'cheap' is unknown"):
            async with opened(server, journal, spending=daily, usd_per_million_input=None):
                pass


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, pytest.param(404, marks=pytest.mark.series)])
async def test_a_fallback_at_another_endpoint_answers(status: int, journal: NodeJournal) -> None:
    async with Models(cheap=status).running() as server, Models(other=RIGHT).running() as second:
        endpoint = LlmEndpoint(base_url=f"{second.url}/v1", api_key=SecretStr("second"))
        fallback = {"model": "other", "endpoint": "second", **FREE}
        async with opened(server, journal, endpoints={"second": endpoint}, fallbacks=[fallback]) as extract:
            derived = await extract.apply(batch_of(staged(1, TEXT)))
            counts = extract.ctx.aggregate
    assert derived.records[0]["total"] == 12
    assert second.requests[0].headers["authorization"] == "Bearer second"
    assert counts["unavailable[cheap]"] == 1


async def test_a_fallback_answers_where_nothing_listens(journal: NodeJournal) -> None:
    async with Models(cheap=RIGHT).running() as server:
        own = LlmEndpoint(base_url=f"{server.url}/v1")
        server.url = unused_url()
        async with opened(
            server, journal, endpoints={"b": own}, fallbacks=[{"model": "cheap", "endpoint": "b", **FREE}]
        ) as extract:
            derived = await extract.apply(batch_of(staged(1, TEXT)))
    assert derived.records[0]["total"] == 12


async def test_without_any_model_the_engine_waits(journal: NodeJournal) -> None:
    async with Models(cheap=503, other=500).running() as server:
        async with opened(server, journal, fallbacks=[{"model": "other", **FREE}]) as extract:
            with pytest.raises(TransientError):
                await extract.apply(batch_of(staged(1, TEXT)))
    assert server.asked == ["cheap", "other"]


async def test_an_unknown_endpoint_is_named_before_any_call(journal: NodeJournal) -> None:
    async with Models(cheap=RIGHT).running() as server:
        with pytest.raises(FatalError, match=r"endpoint 'x', which is not one of .* `endpoints` \(none\)"):
            async with opened(server, journal, cascade=[{"model": "m", "endpoint": "x"}]):
                pass
    assert server.requests == []


def test_alternatives_are_names_or_mappings() -> None:
    params = LlmParams.model_validate({"cascade": ["a", {"model": "b", "reasoning_effort": "high"}]})
    assert [one.model for one in params.cascade] == ["a", "b"]
    assert params.of_alternative(params.cascade[1]).extras == {"reasoning_effort": "high"}
    with pytest.raises(ValidationError, match="Extra inputs"):
        LlmParams.model_validate({"cascade": [{"model": "b", "api_key": "x"}]})


@pytest.mark.parametrize(
    ("dear", "expected", "dead"),
    [
        ({"records": []}, [12, 13], 1),
        ({"records": [{"vendor": "ACME"}]}, [12, 13], 1),
        ({"records": [{"total": 14}]}, [14], 0),
        ({"records": [{"total": 14}, {"total": 15}, {"vendor": "ACME"}]}, [14, 15], 1),
    ],
    ids=["none", "fewer", "valid", "as many"],
)
async def test_a_stage_that_does_worse_takes_no_records_away(
    dear: dict[str, Any], expected: list[int], dead: int, journal: NodeJournal
) -> None:
    cheap = {"records": [{"total": 12}, {"total": 13}, {"vendor": "ACME"}]}
    async with Models(cheap=cheap, dear=dear).running() as server:
        async with opened(server, journal, cascade=[DEAR], many=True) as extract:
            derived = await extract.apply(batch_of(staged(1, TEXT)))
        assert "dear" in server.asked
    assert [record["total"] for record in derived.records] == expected
    assert len(derived.dead_items or []) == dead


@pytest.mark.parametrize(
    ("cascade", "pays"),
    [(["dear"], False), ([{"model": "d", "endpoint": "own"}], True)],
    ids=["none", "other"],
)
def test_a_node_in_the_sandbox_pays_where_it_asks_another_endpoint(cascade: list[Any], pays: bool) -> None:
    """`tap`, samples and `--chaos` do not ask nodes that pay."""
    ask = {"connection": "model", "fields": FIELDS, "cascade": cascade}
    mapping = {
        "connections": {"model": {"base_url": "sandbox", "endpoints": {"own": {"base_url": "http://h/v1"}}}},
        "pipelines": {
            "p": {
                "nodes": {
                    "a": {"source": "blob"},
                    "b": {"transform": "llm_extract", "with": ask},
                    "c": {"sink": "stdout"},
                }
            }
        },
    }
    assert compile_file(load_mapping(mapping), Registry.installed())["p"].node("b").pays is pays


@pytest.mark.parametrize(
    ("items", "records", "dead"),
    [
        (["x", {"total": 1}, None], 1, 1),
        pytest.param([[{"total": 1}], 7], 0, 2, marks=pytest.mark.series),
        pytest.param({"total": 1}, 1, 0, marks=pytest.mark.series),
        pytest.param("x", 0, 1, marks=pytest.mark.series),
    ],
)
async def test_records_of_the_wrong_form_are_dead_letters(
    items: object, records: int, dead: int, journal: NodeJournal
) -> None:
    async with Models(cheap={"records": items}).running() as server:
        async with opened(server, journal, many=True) as extract:
            derived = await extract.apply(batch_of(staged(1, TEXT)))
    assert len(derived.records) == records
    assert len(derived.failures or derived.dead_items or ()) == dead


class Checked(BaseModel):
    total: int

    @field_validator("total")
    @classmethod
    def divides(cls, value: int) -> int:
        return value // (value - 12)


async def test_a_validator_with_a_bug_costs_its_record(journal: NodeJournal) -> None:
    async with Models(cheap=RIGHT).running() as server:
        async with opened(server, journal, schema=f"{__name__}:Checked") as extract:
            derived = await extract.apply(batch_of(staged(1, TEXT)))
    ((_, error),) = derived.failures
    assert isinstance(error, RecordError)
    assert (error.kind, error.unplanned) == ("ZeroDivisionError", True)


class Greedy(BaseModel):
    total: int

    @field_validator("total")
    @classmethod
    def takes_all_memory(cls, value: int) -> int:
        raise MemoryError


class GreedyId(BaseModel):
    id: str
    total: int

    @field_validator("id")
    @classmethod
    def takes_all_memory(cls, value: str) -> str:
        raise MemoryError


@pytest.mark.parametrize(("schema", "calls"), [(Greedy, 1), (GreedyId, 0)])
async def test_lack_of_memory_is_no_fault_of_a_record(
    journal: NodeJournal, schema: type[BaseModel], calls: int
) -> None:
    async with Models(cheap=RIGHT).running() as server:
        async with opened(server, journal, schema=f"{__name__}:{schema.__name__}") as extract:
            with pytest.raises(MemoryError):
                await extract.apply(batch_of(staged(1, TEXT)))
    assert len(server.asked) == calls


class Numbered(BaseModel):
    id: int
    source_file_path: str
    total: int


@pytest.mark.parametrize(
    ("changes", "many", "reason"),
    [
        ({"id": "unstr_1"}, False, "fills in: id: Input should be a valid integer"),
        ({"id": "7"}, True, "change `id` in the schema or in the document's record"),
        ({"id": "7", "source_file_path": None}, False, "source_file_path: Input should be a valid string"),
        ({"id": "7"}, False, ""),
    ],
    ids=["text", "many", "no-path", "number"],
)
async def test_an_id_that_does_not_fit_costs_no_call(
    journal: NodeJournal, changes: dict[str, Any], many: bool, reason: str
) -> None:
    async with Models(cheap=RIGHT).running() as server:
        async with opened(server, journal, schema=f"{__name__}:Numbered", many=many) as extract:
            derived = await extract.apply(batch_of(staged(1, TEXT, **changes)))
    told = [str(error) for _, error in derived.failures or ()]
    assert [reason in one for one in told] == ([True] if reason else [])
    assert len(server.asked) == (0 if reason else 1)


@pytest.mark.parametrize(
    ("answer", "message", "kind"),
    [
        (Answer.of({}, 407), "the proxy of the environment needs a user and a password", "auth"),
        (
            Answer.of({}, 307, location="http://me:pa55@h/?key=pa55"),
            r"redirects to http://\*\*\*@h",
            "config",
        ),
    ],
    ids=["proxy", "redirect"],
)
async def test_what_stands_before_an_endpoint_is_named(
    answer: Answer, message: str, kind: str, journal: NodeJournal
) -> None:
    class Gateway(Models):
        def answer(self, request: Request) -> Answer:
            return answer

    async with Gateway().running() as server, opened(server, journal) as extract:
        with pytest.raises(FatalError, match=message) as caught:
            await extract.apply(batch_of(staged(1, TEXT)))
    assert caught.value.kind == kind
    assert "pa55" not in str(caught.value)
