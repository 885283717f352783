"""Fates of documents against a model in memory: how many calls, at once and in all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import anyio
import pytest

from connectors.llm.asking import Asker
from connectors.llm.client import ContentRefusedError, PackTooLargeError, Reply
from connectors.llm.documents import Document
from connectors.llm.packing import PackLimits
from connectors.llm.pricing import Budget, Price, Usage
from connectors.llm.prompt import Prompt, PromptWriter
from connectors.llm.questions import Questions
from connectors.llm.schema import target_schema
from engine.contract.journal import AnswerJournal, NoJournal
from engine.errors import FatalError, RecordError, TransientError

SCHEMA = target_schema("Medical")
Answerer = Callable[[Prompt, list[str]], Reply]


def documents_in(prompt: Prompt) -> list[str]:
    """The first line of each document of a prompt."""
    return [
        re.sub(r"\A<document [^>]*>\n", "", part["text"]).split("\n")[0]
        for part in prompt.messages[1]["content"]
    ]


def answered(prompt: Prompt, texts: list[str]) -> Reply:
    slots = {
        slot: dict.fromkeys(SCHEMA.fields, text) | {"nonce": nonce}
        for (slot, nonce), text in zip(prompt.nonces.items(), texts, strict=True)
    }
    return Reply(json.dumps(slots), "stop", "", 10, 5)


class MemoryModel:
    """A chat client whose answers are a function; `hold` keeps calls waiting until it is set."""

    def __init__(self, answerer: Answerer = answered, hold: anyio.Event | None = None) -> None:
        self.packs: list[list[str]] = []
        self.in_flight = 0
        self._answerer = answerer
        self._hold = hold

    async def complete(self, prompt: Prompt, max_tokens: int) -> Reply:
        texts = documents_in(prompt)
        self.packs.append(texts)
        self.in_flight += 1
        try:
            if self._hold is not None:
                await self._hold.wait()
            return self._answerer(prompt, texts)
        finally:
            self.in_flight -= 1


def asker(
    model: MemoryModel,
    *,
    documents: int = 4,
    concurrency: int = 8,
    budget: float | None = None,
    journal: AnswerJournal | None = None,
) -> Asker:
    writer = PromptWriter(SCHEMA, "")
    return Asker(
        chat=model,  # type: ignore[arg-type]
        writer=writer,
        questions=Questions(writer, SCHEMA, "memory-model", 0.1),
        journal=journal or NoJournal(),
        schema=SCHEMA,
        price=Price(1.0, 1.0),
        budget=Budget(budget),
        limiter=anyio.CapacityLimiter(concurrency),
        limits=PackLimits(documents, 100_000, 10),
        max_tokens=1_000,
        max_document_tokens=10_000,
    )


def some(count: int) -> list[Document]:
    return [Document.of_text(f"{number}.txt", f"doc{number}") for number in range(count)]


def ignore(indices: object, usage: Usage) -> None:
    """Nobody counts."""


def no_hits(index: int, lost: Usage) -> None:
    """Nobody counts these either."""


async def test_calls_in_flight_are_bounded_and_all_of_the_bound_is_used() -> None:
    hold = anyio.Event()
    model = MemoryModel(hold=hold)
    async with anyio.create_task_group() as group:
        group.start_soon(asker(model, documents=1, concurrency=3).ask, some(5), ignore, no_hits)
        await anyio.wait_all_tasks_blocked()
        assert model.in_flight == 3
        hold.set()
    assert len(model.packs) == 5


async def test_cancelling_leaves_no_call_behind() -> None:
    model = MemoryModel(hold=anyio.Event())
    async with anyio.create_task_group() as group:
        group.start_soon(asker(model, documents=1).ask, some(5), ignore, no_hits)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert model.in_flight == 0


async def test_a_fatal_error_waits_for_calls_in_flight_and_begins_no_other() -> None:
    hold = anyio.Event()

    class OneFatal(MemoryModel):
        async def complete(self, prompt: Prompt, max_tokens: int) -> Reply:
            if documents_in(prompt) == ["doc1"]:
                self.packs.append(["doc1"])
                hold.set()
                raise FatalError("the quota is used up", kind="budget")
            return await super().complete(prompt, max_tokens)

    model, paid = OneFatal(hold=hold), []
    with pytest.raises(FatalError, match="quota"):
        await asker(model, documents=1, concurrency=2).ask(
            some(6), lambda indices, usage: paid.append(list(indices)), no_hits
        )

    assert model.packs == [["doc0"], ["doc1"]]
    assert paid == [[0]]


def refusing(error: Exception) -> Answerer:
    def answer(prompt: Prompt, texts: list[str]) -> Reply:
        if "doc2" in texts:
            raise error
        return answered(prompt, texts)

    return answer


@pytest.mark.parametrize(
    ("error", "kind"), [(PackTooLargeError("x"), "DocumentTooLong"), (ContentRefusedError("x"), "Refused")]
)
async def test_halving_finds_the_document_at_fault_in_few_calls(error: Exception, kind: str) -> None:
    model = MemoryModel(refusing(error))
    fates = await asker(model, documents=8).ask(some(8), ignore, no_hits)
    dead = {index: fate.kind for index, fate in enumerate(fates) if isinstance(fate, RecordError)}
    assert dead == {2: kind}
    assert len(model.packs) == 7  # 8, then 4+4, 2+2, 1+1


async def test_a_transient_error_of_a_second_question_is_that_documents_alone() -> None:
    def answer(prompt: Prompt, texts: list[str]) -> Reply:
        if texts == ["doc1"]:
            raise TransientError("busy")
        slots = json.loads(answered(prompt, texts).content)
        return Reply(json.dumps({slot: slots[slot] for slot in slots if slot != "r2"}), "stop", "", 1, 1)

    fates = await asker(MemoryModel(answer), documents=3).ask(some(3), ignore, no_hits)
    assert [type(fate).__name__ for fate in fates] == ["dict", "TransientError", "dict"]


async def test_a_model_that_never_echoes_nonces_costs_a_bounded_number_of_calls() -> None:
    def forgetful(prompt: Prompt, texts: list[str]) -> Reply:
        slots = {slot: dict.fromkeys(SCHEMA.fields, "x") | {"nonce": "?"} for slot in prompt.nonces}
        return Reply(json.dumps(slots), "stop", "", 1, 1)

    model = MemoryModel(forgetful)
    fates = await asker(model, documents=4).ask(some(4), ignore, no_hits)
    assert {fate.kind for fate in fates if isinstance(fate, RecordError)} == {"SlotMissing"}
    assert len(fates) == 4
    assert len(model.packs) == 1 + 2 * 4


async def test_usage_names_the_documents_of_each_call() -> None:
    used: list[tuple[list[int], Usage]] = []
    await asker(MemoryModel(), documents=2).ask(
        some(3), lambda places, usage: used.append((list(places), usage)), no_hits
    )
    assert sorted(used, key=lambda item: item[0]) == [
        ([0, 1], Usage(10, 5, 15e-6)),
        ([2], Usage(10, 5, 15e-6)),
    ]


async def test_calls_side_by_side_cannot_break_the_budget_together() -> None:
    hold = anyio.Event()
    model = MemoryModel(hold=hold)
    one = asker(model, documents=1)
    estimate = one.price.of(one.writer.tokens_aside + some(1)[0].tokens, len(SCHEMA.fields) * 16)

    async def release() -> None:
        await anyio.wait_all_tasks_blocked()
        hold.set()

    async with anyio.create_task_group() as group:
        group.start_soon(release)
        with pytest.raises(FatalError, match="does not cover the next call"):
            await asker(model, documents=1, budget=estimate * 2.5).ask(some(4), ignore, no_hits)
    assert len(model.packs) <= 2


async def test_no_documents_are_no_calls() -> None:
    model = MemoryModel()
    assert await asker(model).ask([], ignore, no_hits) == []
    assert model.packs == []
