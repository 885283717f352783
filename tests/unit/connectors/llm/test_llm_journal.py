"""Nothing is paid for twice: documents, answers and refusals in the journal."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import anyio
import pytest

from connectors.llm.client import Reply
from connectors.llm.documents import Document
from connectors.llm.pricing import Usage
from connectors.llm.prompt import Prompt, PromptWriter
from connectors.llm.questions import Questions
from connectors.llm.schema import target_schema
from connectors.objects.documents import ImagePart, TextPart
from engine.contract.journal import JournalEntry
from engine.errors import FatalError, RecordError, StateFullError, TransientError
from engine.execution.journal import Journal, NodeJournal
from engine.state import JournalFilter
from engine.state.memory import MemoryStateStore
from engine.testing import ScriptedClock
from tests.unit.connectors.llm.test_llm_asking import MemoryModel, answered, asker, ignore, no_hits, some


@pytest.fixture
async def store() -> AsyncIterator[MemoryStateStore]:
    async with MemoryStateStore() as store:
        yield store


@pytest.fixture
def journal(store: MemoryStateStore) -> Journal:
    return Journal(store, ScriptedClock(jump=True))


def of_run(journal: Journal, run_id: str = "run-1") -> NodeJournal:
    return journal.of_node("memos", "extract", run_id)


class TestHits:
    async def test_what_has_an_answer_is_not_asked_again_and_counted(self, journal: Journal) -> None:
        first, second, hits = MemoryModel(), MemoryModel(), []
        before = await asker(first, journal=of_run(journal)).ask(
            some(3), ignore, lambda *hit: hits.append(hit)
        )
        after = await asker(second, journal=of_run(journal, "run-2")).ask(
            some(4), ignore, lambda *hit: hits.append(hit)
        )
        assert after[:3] == before
        assert second.packs == [["doc3"]]
        assert hits == [(0, Usage()), (1, Usage()), (2, Usage())]

    async def test_what_is_the_same_under_another_name_is_asked_once(self, journal: Journal) -> None:
        same = [Document.of_text(name, text) for name, text in [("a", "x"), ("b", "x"), ("c", "y")]]
        model, hits = MemoryModel(), []
        fates = await asker(model, journal=of_run(journal)).ask(same, ignore, lambda *hit: hits.append(hit))
        assert model.packs == [["x", "y"]]
        assert fates[0] == fates[1] != fates[2]
        assert hits == [(1, Usage())]

    async def test_uncommitted_cost_is_booked_when_the_record_returns(self, journal: Journal) -> None:
        documents = [replace(one, record=f"key/{number}") for number, one in enumerate(some(2))]
        alike = replace(documents[0], record="key/9")
        await asker(MemoryModel(), journal=of_run(journal)).ask(documents, ignore, no_hits)
        owed: dict[str, list[Usage]] = {"run-1": [], "run-2": []}
        for run_id, found in owed.items():
            one = asker(MemoryModel(), journal=of_run(journal, run_id))
            await one.ask([*documents, alike], ignore, lambda index, lost, found=found: found.append(lost))  # type: ignore[misc]
        assert sorted(owed["run-1"], key=lambda usage: usage.tokens_out) == [
            Usage(),
            Usage(5, 2, pytest.approx(7.5e-6)),  # type: ignore[arg-type]
            Usage(5, 3, pytest.approx(7.5e-6)),  # type: ignore[arg-type]
        ]
        assert owed["run-2"] == [Usage()] * 3

    async def test_failed_call_fails_all_identical_documents(self, journal: Journal) -> None:
        def busy(prompt: Prompt, texts: list[str]) -> Reply:
            raise TransientError("busy")

        same, hits = [Document.of_text(name, "x") for name in "ab"], []
        model = MemoryModel(busy)
        fates = await asker(model, journal=of_run(journal)).ask(same, ignore, lambda *hit: hits.append(hit))
        assert [type(fate) for fate in fates] == [TransientError, TransientError]
        assert len(model.packs) == 1
        assert hits == []

    async def test_of_two_batches_at_once_one_pays(self, journal: Journal) -> None:
        hold = anyio.Event()
        first, second, fates = MemoryModel(hold=hold), MemoryModel(), {}

        async def ask(model: MemoryModel, run_id: str) -> None:
            fates[run_id] = await asker(model, journal=of_run(journal, run_id)).ask(some(2), ignore, no_hits)

        async with anyio.create_task_group() as group:
            group.start_soon(ask, first, "run-1")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(ask, second, "run-2")
            await anyio.wait_all_tasks_blocked()
            hold.set()
        assert second.packs == []
        assert fates["run-1"] == fates["run-2"]

    async def test_and_when_that_one_fails_the_other_pays(self, journal: Journal) -> None:
        hold = anyio.Event()

        def busy(prompt: Prompt, texts: list[str]) -> Reply:
            raise TransientError("busy")

        first, second, fates = MemoryModel(busy, hold=hold), MemoryModel(), {}

        async def ask(model: MemoryModel, run_id: str) -> None:
            fates[run_id] = await asker(model, journal=of_run(journal, run_id)).ask(some(1), ignore, no_hits)

        async with anyio.create_task_group() as group:
            group.start_soon(ask, first, "run-1")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(ask, second, "run-2")
            await anyio.wait_all_tasks_blocked()
            hold.set()
        assert [type(fates[run_id][0]) for run_id in ("run-1", "run-2")] == [TransientError, dict]
        assert len(second.packs) == 1

    async def test_a_damaged_entry_stops_the_run_and_is_named(
        self, journal: Journal, store: MemoryStateStore
    ) -> None:
        await asker(MemoryModel(), journal=of_run(journal)).ask(some(1), ignore, no_hits)
        (entry,) = await store.list_journal(JournalFilter())
        await store.put_journal([replace(entry, answer="{")])
        with pytest.raises(FatalError, match=f"{entry.key[:12]} is damaged"):
            await asker(MemoryModel(), journal=of_run(journal)).ask(some(1), ignore, no_hits)


async def kept(store: MemoryStateStore) -> list[JournalEntry]:
    keys = [entry.key for entry in await store.list_journal(JournalFilter())]
    return list((await store.get_journal(keys)).values())


class TestKeeping:
    async def test_journal_entry_has_slot_model_and_price_share(
        self, journal: Journal, store: MemoryStateStore
    ) -> None:
        used: list[Usage] = []
        await asker(MemoryModel(), journal=of_run(journal)).ask(
            some(3), lambda places, usage: used.append(usage), no_hits
        )
        entries = await kept(store)
        assert [json.loads(entry.answer)["doctor"] for entry in entries] == ["doc0", "doc1", "doc2"]
        assert {entry.model for entry in entries} == {"memory-model"}
        assert [entry.tokens_in for entry in entries] == [3, 3, 4]
        assert sum(entry.tokens_out for entry in entries) == 5
        assert sum(entry.cost_usd for entry in entries) == pytest.approx(used[0].cost_usd)

    async def test_a_second_question_adds_to_the_price_of_its_document(
        self, journal: Journal, store: MemoryStateStore
    ) -> None:
        def forget_second(prompt: Prompt, texts: list[str]) -> Reply:
            slots = json.loads(answered(prompt, texts).content)
            return Reply(json.dumps({"r1": slots["r1"]}), "stop", "", 10, 5)

        await asker(MemoryModel(forget_second), journal=of_run(journal)).ask(some(2), ignore, no_hits)
        assert [(entry.tokens_in, entry.tokens_out) for entry in await kept(store)] == [(5, 2), (15, 8)]

    async def test_answers_are_kept_although_a_later_call_stops_the_run(
        self, journal: Journal, store: MemoryStateStore
    ) -> None:
        def quota(prompt: Prompt, texts: list[str]) -> Reply:
            if texts == ["doc2"]:
                raise FatalError("quota")
            return answered(prompt, texts)

        one = asker(MemoryModel(quota), documents=1, concurrency=1, journal=of_run(journal))
        with pytest.raises(FatalError):
            await one.ask(some(3), ignore, no_hits)
        assert [json.loads(entry.answer)["doctor"] for entry in await kept(store)] == ["doc0", "doc1"]
        again = MemoryModel()
        await asker(again, documents=1, journal=of_run(journal)).ask(some(3), ignore, no_hits)
        assert again.packs == [["doc2"]]

    async def test_a_slot_without_its_nonce_is_not_kept_as_an_answer(
        self, journal: Journal, store: MemoryStateStore
    ) -> None:
        def forgetful(prompt: Prompt, texts: list[str]) -> Reply:
            slots = json.loads(answered(prompt, texts).content)
            if texts == ["doc1"]:
                slots = {"something": "else"}
            elif "doc1" in texts:
                slots["r2"]["nonce"] = "?"
            return Reply(json.dumps(slots), "stop", "", 10, 5)

        model = MemoryModel(forgetful)
        fates = await asker(model, journal=of_run(journal)).ask(some(2), ignore, no_hits)
        assert isinstance(fates[1], RecordError)
        assert [entry.outcome for entry in await kept(store)] == ["answer", "SlotMissing"]

    async def test_a_store_that_is_full_stops_the_run_as_what_it_is(
        self, journal: Journal, store: MemoryStateStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def full(entries: Sequence[JournalEntry], forget: object = ()) -> None:
            raise StateFullError("no space")

        monkeypatch.setattr(store, "put_journal", full)
        with pytest.raises(StateFullError):
            await asker(MemoryModel(), documents=1, journal=of_run(journal)).ask(some(2), ignore, no_hits)
        assert journal.in_flight == 0


def refusing(prompt: Prompt, texts: list[str]) -> Reply:
    return Reply("", "stop", "I will not", 10, 5)


def filtered(prompt: Prompt, texts: list[str]) -> Reply:
    return Reply("", "content_filter", "", 10, 5)


def malformed(prompt: Prompt, texts: list[str]) -> Reply:
    return Reply("no JSON", "stop", "", 10, 5)


def truncated(prompt: Prompt, texts: list[str]) -> Reply:
    return Reply("{", "length", "", 10, 5)


class TestVerdicts:
    @pytest.mark.parametrize(
        ("answerer", "kind"),
        [(refusing, "Refused"), (filtered, "ContentFilter")],
    )
    async def test_a_refusal_that_was_paid_for_holds_for_every_run(
        self, journal: Journal, answerer: object, kind: str
    ) -> None:
        (fate,) = await asker(MemoryModel(answerer), journal=of_run(journal)).ask(some(1), ignore, no_hits)  # type: ignore[arg-type]
        for run_id in ("run-1", "run-2"):
            model = MemoryModel()
            (again,) = await asker(model, journal=of_run(journal, run_id)).ask(some(1), ignore, no_hits)
            assert isinstance(fate, RecordError)
            assert isinstance(again, RecordError)
            assert (again.kind, str(again)) == (kind, str(fate))
            assert model.packs == []

    @pytest.mark.parametrize(
        ("answerer", "kind"),
        [(malformed, "MalformedReply"), (truncated, "AnswerTruncated")],
    )
    async def test_paid_failures_hold_for_their_run_only(
        self, journal: Journal, answerer: object, kind: str
    ) -> None:
        await asker(MemoryModel(answerer), journal=of_run(journal)).ask(some(1), ignore, no_hits)  # type: ignore[arg-type]
        redo, anew = MemoryModel(), MemoryModel()
        (dead,) = await asker(redo, journal=of_run(journal)).ask(some(1), ignore, no_hits)
        (good,) = await asker(anew, journal=of_run(journal, "run-2")).ask(some(1), ignore, no_hits)
        assert isinstance(dead, RecordError)
        assert dead.kind == kind
        assert redo.packs == []
        assert isinstance(good, dict)

    async def test_a_failure_that_cost_nothing_is_not_kept(
        self, journal: Journal, store: MemoryStateStore
    ) -> None:
        long = Document.of_text("long.txt", "word " * 20_000)
        (fate,) = await asker(MemoryModel(), journal=of_run(journal)).ask([long], ignore, no_hits)
        assert isinstance(fate, RecordError)
        assert await kept(store) == []


class TestKeys:
    TEXT = Document("a.txt", [TextPart("some text")])

    def questions(
        self,
        *,
        instructions: str = "",
        model: str = "m",
        temperature: float = 0.1,
        schema: str = "Medical",
        extras: dict[str, object] | None = None,
    ) -> Questions:
        target = target_schema(schema)
        return Questions(PromptWriter(target, instructions), target, model, temperature, extras)

    async def test_the_same_question_has_the_same_key_in_another_process(self) -> None:
        key = await self.questions().key(self.TEXT)
        assert key == await self.questions().key(Document("b.txt", [TextPart("some text")]))
        assert len(key) == 64

    @pytest.mark.parametrize(
        "other",
        [
            {"instructions": "ISO dates"},
            {"model": "m2"},
            {"temperature": 0.2},
            {"extras": {"seed": 7}},
            {"schema": "connectors.models:Log"},
        ],
        ids=str,
    )
    async def test_everything_that_alters_the_answer_alters_the_key(self, other: dict[str, object]) -> None:
        assert await self.questions(**other).key(self.TEXT) != await self.questions().key(self.TEXT)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "other",
        [
            Document("a.txt", [TextPart("some text.")]),
            Document("a.txt", [TextPart("some"), TextPart(" text")]),
            Document("a.txt", [ImagePart("some text")]),
            Document("a.txt", [TextPart("some text")], instructions="only adults"),
            Document("a.txt", []),
        ],
        ids=lambda document: repr(document.parts) + document.instructions,
    )
    async def test_other_content_has_another_key(self, other: Document) -> None:
        assert await self.questions().key(other) != await self.questions().key(self.TEXT)
