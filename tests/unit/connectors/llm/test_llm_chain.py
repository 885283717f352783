"""Fallback models: which one is asked while others are unavailable; nothing is paid for twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import anyio
import pytest

from connectors.llm.chain import FIRST_PAUSE, ModelChain
from connectors.llm.client import EndpointError, Reply
from connectors.llm.documents import Document
from connectors.llm.prompt import Prompt
from connectors.llm.questions import Questions
from engine.config import load_mapping
from engine.errors import ConfigError, FatalError, TransientError
from engine.execution.journal import Journal, NodeJournal
from engine.plan.compile import compile_file
from engine.registry import Registry
from engine.state import JournalFilter
from engine.state.memory import MemoryStateStore
from engine.testing import ScriptedClock
from tests.unit.connectors.llm.test_llm_asking import (
    SCHEMA,
    Answerer,
    MemoryModel,
    answered,
    asker,
    ignore,
    no_hits,
    some,
)


class Models:
    """Models of one chain by name, each with its answerer, and what was counted."""

    def __init__(self, journal: NodeJournal | None = None, **answerers: Answerer) -> None:
        self.models = {name: MemoryModel(one) for name, one in answerers.items()}
        self.counts: Counter[str] = Counter()
        self.clock = ScriptedClock()
        askers = []
        for name, model in self.models.items():
            one = asker(model, journal=journal)
            questions = Questions(one.writer, SCHEMA, name, 0.1)
            askers.append(replace(one, questions=questions, by_model=True, on_count=self.count))
        self.chain = ModelChain(askers, self.clock.monotonic, self.count)

    def count(self, name: str, amount: float = 1, /) -> None:
        self.counts[name] += amount  # type: ignore[assignment]

    @property
    def asked(self) -> dict[str, int]:
        return {name: len(model.packs) for name, model in self.models.items()}


@pytest.fixture
async def store() -> AsyncIterator[MemoryStateStore]:
    async with MemoryStateStore() as store:
        yield store


def of_run(store: MemoryStateStore, run_id: str) -> NodeJournal:
    return Journal(store, ScriptedClock()).of_node("memos", "extract", run_id)


def away(prompt: Prompt, texts: list[str]) -> Reply:
    raise TransientError("the endpoint answered 503")


def refused(prompt: Prompt, texts: list[str]) -> Reply:
    raise EndpointError("no such model")


def throttled(prompt: Prompt, texts: list[str]) -> Reply:
    raise TransientError("slow down", throttled=True)


@pytest.mark.parametrize("first", [away, refused])
async def test_the_next_model_answers_while_one_is_unavailable(first: Answerer) -> None:
    models = Models(first=first, second=answered)
    fates = await models.chain.ask(some(3), ignore, no_hits)
    assert [fate["doctor"] for fate in fates if isinstance(fate, dict)] == ["doc0", "doc1", "doc2"]
    assert models.counts["unavailable[first]"] == 1
    assert models.counts["calls[second]"] == 1
    assert models.counts["tokens_in[second]"] == 10


async def test_an_unavailable_model_is_asked_again_after_a_pause() -> None:
    models = Models(first=away, second=answered)
    for number in range(3):
        await models.chain.ask(some(number + 1)[-1:], ignore, no_hits)
    assert models.asked == {"first": 1, "second": 3}
    models.clock.advance(FIRST_PAUSE)
    await models.chain.ask(some(9)[-1:], ignore, no_hits)
    assert models.asked == {"first": 2, "second": 4}
    models.clock.advance(FIRST_PAUSE)  # twice as long by now
    await models.chain.ask(some(8)[-1:], ignore, no_hits)
    assert models.asked == {"first": 2, "second": 5}


@pytest.mark.slow
async def test_many_batches_move_on_together_when_a_model_fails() -> None:
    """They do not try it one after the other, ever more slowly, and pass it over for one pause."""
    models = Models(first=away, second=answered)

    async def ask(documents: list[Document]) -> None:
        await models.chain.ask(documents, ignore, no_hits)

    waiting = models.chain._members[0].asker.gate.clock
    for _ in range(2):
        start = waiting.monotonic()
        async with anyio.create_task_group() as group:
            for one in some(32):
                group.start_soon(ask, [one])
        assert waiting.monotonic() - start <= 60
        models.clock.advance(FIRST_PAUSE + 1)
    assert models.counts["calls[second]"] == 64
    assert models.asked["first"] <= 33  # one batch tries it again


async def test_a_model_that_asks_for_a_wait_is_waited_for() -> None:
    models = Models(first=throttled, second=answered)
    (fate,) = await models.chain.ask(some(1), ignore, no_hits)
    assert isinstance(fate, TransientError)
    assert fate.throttled
    assert models.asked == {"first": 1, "second": 0}


async def test_when_all_are_away_the_engine_may_try_again() -> None:
    models = Models(first=refused, second=away)
    for _ in range(2):
        (fate,) = await models.chain.ask(some(1), ignore, no_hits)
        assert isinstance(fate, TransientError)
    assert models.asked == {"first": 2, "second": 2}  # no other model is left


async def test_when_all_refuse_the_first_reason_ends_the_run() -> None:
    with pytest.raises(EndpointError, match="no such model"):
        await Models(first=refused, second=refused).chain.ask(some(1), ignore, no_hits)


async def test_a_spent_budget_is_no_reason_to_ask_another() -> None:
    def spent(prompt: Prompt, texts: list[str]) -> Reply:
        raise FatalError("the budget does not cover the next call", kind="budget")

    models = Models(first=spent, second=answered)
    with pytest.raises(FatalError, match="budget"):
        await models.chain.ask(some(1), ignore, no_hits)
    assert models.asked["second"] == 0


async def test_what_any_model_has_answered_is_not_paid_again(store: MemoryStateStore) -> None:
    before = Models(of_run(store, "run-1"), first=away, second=answered)
    fates = await before.chain.ask(some(2), ignore, no_hits)

    after, hits = Models(of_run(store, "run-2"), first=answered, second=answered), []
    again = await after.chain.ask(some(3), ignore, lambda *hit: hits.append(hit[0]))

    assert again[:2] == fates
    assert after.models["first"].packs == [["doc2"]]
    assert hits == [0, 1]
    paid = await store.list_journal(JournalFilter())
    assert [one.model for one in paid] == ["second", "second", "first"]


async def test_answers_paid_before_a_refusal_are_kept(store: MemoryStateStore) -> None:
    """The key is withdrawn between two calls of a batch: the first answer is not paid for again."""

    def withdrawn(prompt: Prompt, texts: list[str]) -> Reply:
        if texts == ["doc0"]:
            return answered(prompt, texts)
        raise EndpointError("the API key is not allowed")

    models = Models(of_run(store, "run-1"), first=withdrawn, second=answered)
    for member in models.chain._members:
        member.asker = replace(member.asker, limits=replace(member.asker.limits, documents=1))
    booked: list[int] = []
    documents = [replace(one, record=f"key/{number}") for number, one in enumerate(some(3))]
    fates = await models.chain.ask(
        documents,
        lambda indices, usage: booked.extend(indices),
        lambda index, lost: booked.append(index) if lost.tokens_in else None,
    )
    assert [fate["doctor"] for fate in fates if isinstance(fate, dict)] == ["doc0", "doc1", "doc2"]
    assert ["doc0"] not in models.models["second"].packs
    assert sorted(booked) == [0, 1, 2]


async def test_a_refusal_ends_no_run_while_another_is_passed_over() -> None:
    """The first model is asked again while the second is passed over: its refusal is no end of the run."""

    def slow(prompt: Prompt, texts: list[str]) -> Reply:
        models.clock.advance(FIRST_PAUSE)
        return away(prompt, texts)

    models = Models(first=refused, second=slow)
    await models.chain.ask(some(1), ignore, no_hits)
    (fate,) = await models.chain.ask(some(1), ignore, no_hits)
    assert isinstance(fate, TransientError)
    assert models.asked == {"first": 2, "second": 2}


def test_an_endpoint_that_the_connection_lacks_is_found_before_a_run() -> None:
    nodes = {
        "read": {"source": "generate", "with": {"fields": {"id": 1}}},
        "ask": {
            "transform": "llm_extract",
            "with": {"connection": "model", "fallbacks": ["a", {"model": "b", "endpoint": "ownn"}]},
        },
        "show": {"sink": "stdout"},
    }
    endpoints = {"base_url": "sandbox", "endpoints": {"own": {"base_url": "http://h/v1"}}}
    file = load_mapping({"connections": {"model": endpoints}, "pipelines": {"p": {"nodes": nodes}}})
    with pytest.raises(ConfigError, match=r"nodes.ask.*endpoint 'ownn', which is not one of .* \(own\)"):
        compile_file(file, Registry.installed())
