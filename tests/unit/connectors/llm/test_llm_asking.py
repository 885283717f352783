"""Outcomes of documents against an in-memory model, with the number of calls, concurrent and total."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import anyio
import pytest

from connectors.llm.asking import Asker
from connectors.llm.client import ContentRefusedError, PackTooLargeError, Reply
from connectors.llm.documents import Document, PackLimits
from connectors.llm.gate import Gate
from connectors.llm.pricing import Budget, Price, Usage
from connectors.llm.prompt import Prompt, PromptWriter
from connectors.llm.questions import Questions
from connectors.llm.schema import target_schema
from engine.contract.journal import AnswerJournal, NoJournal
from engine.errors import FatalError, RecordError, TransientError
from engine.execution.journal import Journal, NodeJournal
from engine.state.memory import MemoryStateStore
from engine.testing import ScriptedClock

SCHEMA = target_schema("Medical")
Answerer = Callable[[Prompt, list[str]], Reply]


def documents_in(prompt: Prompt) -> list[str]:
    """The first line of each document of a prompt."""
    assert isinstance(prompt.user, str)
    return re.findall(r"^<document [^>]*>\n(.*)$", prompt.user, re.MULTILINE)


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
        self.limits: list[int] = []
        self.in_flight = 0
        self.thinks = False
        self.jobs = None
        self._answerer = answerer
        self._hold = hold

    def given(self, max_tokens: int) -> int:
        return max_tokens

    async def complete(self, prompt: Prompt, max_tokens: int) -> Reply:
        texts = documents_in(prompt)
        self.packs.append(texts)
        self.limits.append(max_tokens)
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
        gate=Gate(ScriptedClock(jump=True)),
        limiter=anyio.CapacityLimiter(concurrency),
        limits=PackLimits(documents, 100_000, 10),
        max_tokens=1_000,
        max_document_tokens=10_000,
    )


@pytest.fixture
async def journal() -> AsyncIterator[Journal]:
    async with MemoryStateStore() as store:
        yield Journal(store, ScriptedClock(jump=True))


def of_run(journal: Journal) -> NodeJournal:
    return journal.of_node("memos", "extract", "run-1")


def some(count: int) -> list[Document]:
    return [Document.of_text(f"{number}.txt", f"doc{number}") for number in range(count)]


def ignore(indices: object, usage: Usage) -> None:
    """Not counted."""


def no_hits(index: int, lost: Usage) -> None:
    """These are not counted either."""


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
                raise FatalError("the quota is exhausted", kind="budget")
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
    ("error", "kind"),
    [(PackTooLargeError("x"), "DocumentTooLong"), (ContentRefusedError("x"), "RequestRefused")],
)
async def test_halving_finds_the_document_at_fault_in_few_calls(error: Exception, kind: str) -> None:
    model = MemoryModel(refusing(error))
    fates = await asker(model, documents=8).ask(some(8), ignore, no_hits)
    dead = {index: fate.kind for index, fate in enumerate(fates) if isinstance(fate, RecordError)}
    assert dead == {2: kind}
    assert len(model.packs) == 7  # 8, then 4+4, 2+2, 1+1


async def test_transient_error_of_a_retry_hits_one_document() -> None:
    def answer(prompt: Prompt, texts: list[str]) -> Reply:
        if texts == ["doc1"]:
            raise TransientError("busy")
        slots = json.loads(answered(prompt, texts).content)
        return Reply(json.dumps({slot: slots[slot] for slot in slots if slot != "r2"}), "stop", "", 1, 1)

    fates = await asker(MemoryModel(answer), documents=3).ask(some(3), ignore, no_hits)
    assert [type(fate).__name__ for fate in fates] == ["dict", "TransientError", "dict"]


async def test_missing_nonces_cost_a_bounded_number_of_calls() -> None:
    def forgetful(prompt: Prompt, texts: list[str]) -> Reply:
        values = {"something": "else"} if prompt.lone else dict.fromkeys(SCHEMA.fields, "x")
        slots = {slot: values | {"nonce": "?"} for slot in prompt.nonces}
        return Reply(json.dumps(slots), "stop", "", 1, 1)

    model = MemoryModel(forgetful)
    fates = await asker(model, documents=4).ask(some(4), ignore, no_hits)
    assert {fate.kind for fate in fates if isinstance(fate, RecordError)} == {"SlotMissing"}
    assert len(fates) == 4
    assert len(model.packs) == 2 + 2 * 4  # together twice, then each alone twice


async def test_usage_names_the_documents_of_each_call() -> None:
    used: list[tuple[list[int], Usage]] = []
    await asker(MemoryModel(), documents=2).ask(
        some(3), lambda places, usage: used.append((list(places), usage)), no_hits
    )
    assert sorted(used, key=lambda item: item[0]) == [
        ([0, 1], Usage(10, 5, 15e-6)),
        ([2], Usage(10, 5, 15e-6)),
    ]


async def test_calls_that_are_out_when_the_budget_is_used_up_are_kept(journal: Journal) -> None:
    hold = anyio.Event()
    model = MemoryModel(hold=hold)
    one = asker(model, documents=1, budget=asker(model).estimate(some(1)) * 2.5, journal=of_run(journal))

    async def release() -> None:
        await anyio.wait_all_tasks_blocked()
        hold.set()

    with pytest.raises(FatalError, match="does not cover the next call"):
        async with anyio.create_task_group() as group:
            group.start_soon(release)
            try:
                await one.ask(some(4), ignore, no_hits)
            except FatalError as error:
                fatal = error
        raise fatal
    assert len(model.packs) <= 2  # calls side by side do not break the budget together
    resumed = MemoryModel()
    await asker(resumed, documents=1, journal=of_run(journal)).ask(some(4), ignore, no_hits)
    assert len(model.packs) + len(resumed.packs) == 4


async def test_an_answer_without_usage_is_booked_as_estimated() -> None:
    counted: list[str] = []
    used: list[Usage] = []

    def silent(prompt: Prompt, texts: list[str]) -> Reply:
        return replace(answered(prompt, texts), tokens_in=0, tokens_out=0, usage_known=False)

    one = replace(
        asker(MemoryModel(silent), documents=1), on_count=lambda name, amount=1: counted.append(name)
    )
    await one.ask(some(2), lambda places, usage: used.append(usage), no_hits)
    assert counted == ["calls_without_usage"] * 2
    assert all(usage.tokens_in > 100 and usage.tokens_out > 10 and usage.cost_usd > 0 for usage in used)
    assert one.budget.spent == pytest.approx(sum(usage.cost_usd for usage in used))


async def test_paid_answers_are_not_paid_again_while_throttled() -> None:
    def unlucky(prompt: Prompt, texts: list[str]) -> Reply:
        if model.packs.count(texts) > 1 or "doc0" not in texts:
            raise TransientError("busy", throttled=True)
        return Reply("no JSON", "stop", "", 10, 5)

    paid: list[object] = []
    model = MemoryModel(unlucky)
    one = asker(model, documents=3)
    for _ in range(20):
        fates = await one.ask(some(3), lambda places, usage: paid.append(places), no_hits)
        assert isinstance(fates[0], TransientError)
    assert len(paid) <= 3
    assert len(one.attempts) == 3


async def test_truncated_answer_is_not_paid_again_while_throttled() -> None:
    def unlucky(prompt: Prompt, texts: list[str]) -> Reply:
        if len(model.packs) > 1:
            raise TransientError("busy", throttled=True)
        return Reply("{", "length", "", 10, 5)

    paid: list[object] = []
    model = MemoryModel(unlucky)
    one = asker(model)
    for _ in range(5):
        await one.ask(some(1), lambda places, usage: paid.append(places), no_hits)
    assert len(paid) == 1
    assert model.limits[1:] == [2_000] * 5


async def test_histories_end_with_the_fate_of_their_documents() -> None:
    one = asker(MemoryModel())
    await one.ask(some(5), ignore, no_hits)
    assert len(one.attempts) == 0


async def test_no_documents_are_no_calls() -> None:
    model = MemoryModel()
    assert await asker(model).ask([], ignore, no_hits) == []
    assert model.packs == []


def test_a_budget_says_what_calls_in_flight_hold() -> None:
    budget = Budget(1.0)
    budget.reserve(0.9)
    with pytest.raises(FatalError, match=r"0\.0000 USD spent, 0\.9000 held for calls in flight"):
        budget.reserve(0.2)


def test_a_budget_covers_calls_that_use_it_up_exactly() -> None:
    budget = Budget(0.3)
    for _ in range(3):
        budget.reserve(0.1)
        budget.settle(0.1, 0.1)
    with pytest.raises(FatalError, match="does not cover the next call"):
        budget.reserve(0.0001)
