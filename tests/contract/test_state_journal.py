"""The contract of state stores for the journal of paid answers, on both backends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.contract.journal import JournalEntry
from engine.errors import StateError
from engine.state import JournalFilter
from engine.state.memory import MAX_JOURNAL, MAX_TRACES, MemoryStateStore
from tests.contract.test_state_store import STORES, WORLDS, World

pytestmark = pytest.mark.anyio

ENTRY = JournalEntry(
    key="a1",
    answer='{"patient_name":"Zoë"}',
    model="gpt-4o-mini",
    tokens_in=120,
    tokens_out=30,
    cost_usd=0.25,
    record="seed/7",
    prompt="[user]\nZoë",
    reply='{"r1": {}}',
    run_id="run-1",
    pipeline="memos",
    node="extract",
    created_at="2026-11-23T08:00:00.000Z",
)
EVERYTHING = JournalFilter()


@pytest.fixture(params=STORES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return WORLDS[request.param](tmp_path, request)


def listed(entry: JournalEntry) -> JournalEntry:
    return replace(entry, answer="", prompt="", reply="")


async def test_an_entry_is_given_back_as_stored_after_a_restart(world: World) -> None:
    verdict = replace(ENTRY, key="b2", outcome="Refused", answer="declined", this_run_only=True)
    async with world.store() as store:
        await store.put_journal([ENTRY, verdict])
    async with world.store() as store:
        assert await store.get_journal(["a1", "b2", "unknown"]) == {"a1": ENTRY, "b2": verdict}
        assert await store.get_journal([]) == {}


async def test_more_keys_than_one_statement_takes_are_all_found(world: World) -> None:
    keys = [f"k{number}" for number in range(1_200)]
    async with world.store() as store:
        await store.put_journal([replace(ENTRY, key=key) for key in keys])
        assert (await store.get_journal(keys)).keys() == set(keys)


async def test_the_later_answer_to_a_question_replaces_the_earlier(world: World) -> None:
    later = replace(ENTRY, answer="{}", outcome="SlotMissing", cost_usd=1.0, run_id="run-2")
    async with world.store() as store:
        await store.put_journal([ENTRY])
        await store.put_journal([later])
        assert await store.get_journal(["a1"]) == {"a1": later}
        assert await store.list_journal(EVERYTHING) == [listed(later)]


async def test_the_list_is_in_order_of_time_and_has_no_answers(world: World) -> None:
    older = replace(ENTRY, key="older", created_at="2026-11-22T08:00:00.000Z")
    async with world.store() as store:
        await store.put_journal([ENTRY, older])
        assert await store.list_journal(EVERYTHING) == [listed(older), listed(ENTRY)]


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        (JournalFilter(run_id="run-2"), ["2"]),
        (JournalFilter(pipeline="notes"), ["3"]),
        (JournalFilter(model="gpt-5"), ["4"]),
        (JournalFilter(before="2026-11-23T08:00:00.000Z"), ["0"]),
        (JournalFilter(before="2026-11-23T08:00:00.001Z", run_id="run-1"), ["0", "1", "3", "4"]),
        (JournalFilter(pipeline="notes", model="gpt-5"), []),
    ],
)
async def test_list_and_purge_take_the_same_entries_and_leave_the_others(
    world: World, where: JournalFilter, keys: list[str]
) -> None:
    entries = [
        replace(ENTRY, key="0", created_at="2026-11-22T23:59:59.999Z"),
        replace(ENTRY, key="1"),
        replace(ENTRY, key="2", run_id="run-2"),
        replace(ENTRY, key="3", pipeline="notes"),
        replace(ENTRY, key="4", model="gpt-5"),
    ]
    async with world.store() as store:
        await store.put_journal(entries)
        assert [entry.key for entry in await store.list_journal(where)] == keys
        assert await store.purge_journal(where) == len(keys)
        left = [entry.key for entry in await store.list_journal(EVERYTHING)]
        assert left == [entry.key for entry in entries if entry.key not in keys]


LONG = "lake/" + "ä" * 1_200


@pytest.mark.parametrize(
    ("record", "keys"),
    [
        ("lake/a.txt", ["whole", "version", "other version"]),
        ("lake/a.txt@1", ["version"]),
        ("lake/a", []),
        (LONG, ["long"]),
        (LONG[:-1], []),
        ("lake/\udcff.txt", ["broken"]),
    ],
)
async def test_calls_are_found_by_record_and_by_object(world: World, record: str, keys: list[str]) -> None:
    paid_for = {
        "whole": "lake/a.txt",
        "version": "lake/a.txt@1",
        "other version": "lake/a.txt@2",
        "longer": "lake/a.txt.old@1",
        "inside": "lake/a.txt/b@1",
        "long": f"{LONG}@1",
        "broken": "lake/\udcff.txt@1",
    }
    async with world.store() as store:
        await store.put_journal([replace(ENTRY, key=key, record=name) for key, name in paid_for.items()])
        found = await store.list_journal(JournalFilter(record=record))
        assert [entry.key for entry in found] == keys


async def test_the_cost_is_that_of_one_node_of_one_run(world: World) -> None:
    async with world.store() as store:
        await store.put_journal(
            [
                ENTRY,
                replace(ENTRY, key="2", cost_usd=0.5),
                replace(ENTRY, key="3", node="other"),
                replace(ENTRY, key="4", run_id="run-2"),
            ]
        )
        assert await store.journal_cost("run-1", "extract") == 0.75
        assert await store.journal_cost("run-9", "extract") == 0.0
        assert await store.journal_cost("run-1") == 1.0


async def test_broken_text_is_stored_with_its_escape(world: World) -> None:
    async with world.store() as store:
        await store.put_journal([replace(ENTRY, answer="caf\udce9", record="\udce9\0")])
        found = (await store.get_journal(["a1"]))["a1"]
        assert (found.answer, found.record) == ("caf\\udce9", "\\udce9\\x00")


async def test_a_closed_store_is_an_error(world: World) -> None:
    with pytest.raises(StateError, match="not open"):
        await world.store().get_journal(["a1"])


async def test_in_memory_the_oldest_traces_leave_before_their_answers() -> None:
    async with MemoryStateStore() as store:
        await store.put_journal([replace(ENTRY, key=str(number)) for number in range(MAX_TRACES + 1)])
        found = await store.get_journal(["0", "1"])
        assert [(one.answer, one.prompt, one.reply) for one in found.values()] == [
            (ENTRY.answer, "", ""),
            (ENTRY.answer, ENTRY.prompt, ENTRY.reply),
        ]


async def test_in_memory_the_oldest_answers_leave_first() -> None:
    async with MemoryStateStore() as store:
        await store.put_journal([replace(ENTRY, key=str(number)) for number in range(MAX_JOURNAL)])
        await store.put_journal([replace(ENTRY, key="0"), replace(ENTRY, key="new")])
        assert set(await store.get_journal(["0", "1", "2", "new"])) == {"0", "2", "new"}
