"""The journal: one caller pays when several ask the same question at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

import anyio
import pytest

from engine.contract.journal import JournalEntry, NoJournal
from engine.errors import StateError
from engine.execution.journal import Journal, NodeJournal
from engine.state.memory import MemoryStateStore
from engine.testing import ScriptedClock

pytestmark = pytest.mark.anyio


class Asking:
    """Somebody who wants answers, and pays, once let go on, for those not yet asked for."""

    def __init__(self, journal: NodeJournal) -> None:
        self.journal = journal
        self.paid: list[str] = []
        self.got: dict[str, str] = {}
        self.go_on = anyio.Event()

    async def ask(self, *keys: str) -> None:
        left = set(keys)
        while left:
            async with self.journal.claim(left) as claim:
                self.got |= {key: entry.answer for key, entry in claim.answers.items()}
                if claim.ours:
                    await self._pay(claim.ours, claim.keep)
            left = set(keys) - self.got.keys()
            if left:
                await claim.others()

    async def _pay(
        self, keys: Collection[str], keep: Callable[[Sequence[JournalEntry]], Awaitable[None]]
    ) -> None:
        await self.go_on.wait()
        self.paid += sorted(keys)
        await keep([JournalEntry(key, f"answer to {key}") for key in sorted(keys)])


@pytest.fixture
def store() -> MemoryStateStore:
    store = MemoryStateStore()
    store._database.start()  # a fixture that waits would run on asyncio whatever the backend of the test
    return store


@pytest.fixture
def journal(store: MemoryStateStore) -> Journal:
    return Journal(store, ScriptedClock(jump=True))


async def test_concurrent_runs_pay_once_for_the_same_question(
    journal: Journal,
) -> None:
    first = Asking(journal.of_node("p", "extract", "run-1"))
    second = Asking(journal.of_node("q", "extract", "run-2"))
    second.go_on.set()
    async with anyio.create_task_group() as group:
        group.start_soon(first.ask, "a", "b")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(second.ask, "b", "c")
        await anyio.wait_all_tasks_blocked()
        assert second.paid == ["c"]
        assert journal.in_flight == 2
        first.go_on.set()
    assert first.paid == ["a", "b"]
    assert second.paid == ["c"]
    assert second.got["b"] == "answer to b"
    assert journal.in_flight == 0


async def test_two_that_hold_what_the_other_needs_do_not_deadlock(journal: Journal) -> None:
    one, two = (Asking(journal.of_node("p", "n", run)) for run in ("run-1", "run-2"))
    async with anyio.create_task_group() as group:
        group.start_soon(one.ask, "a", "b")
        group.start_soon(two.ask, "c", "a")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(one.ask, "c")
        await anyio.wait_all_tasks_blocked()
        one.go_on.set()
        two.go_on.set()
    assert sorted(one.paid + two.paid) == ["a", "b", "c"]


async def test_when_the_first_fails_only_the_next_one_pays(journal: Journal) -> None:
    first = journal.of_node("p", "n", "run-1")
    failure = anyio.Event()
    waiting = [Asking(journal.of_node("p", "n", "run-1")) for _ in range(4)]
    for one in waiting:
        one.go_on.set()

    async def fail() -> None:
        async with first.claim(["a"]):
            await failure.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(fail)
        await anyio.wait_all_tasks_blocked()
        for one in waiting:
            group.start_soon(one.ask, "a")
        await anyio.wait_all_tasks_blocked()
        assert [one.paid for one in waiting] == [[], [], [], []]
        failure.set()
    assert sum(len(one.paid) for one in waiting) == 1
    assert all(one.got == {"a": "answer to a"} for one in waiting)


async def test_one_that_is_cancelled_gives_up_what_it_has_taken(journal: Journal) -> None:
    held, next_one = (Asking(journal.of_node("p", "n", "run-1")) for _ in range(2))
    next_one.go_on.set()
    async with anyio.create_task_group() as group:
        group.start_soon(held.ask, "a")
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert journal.in_flight == 0
    await next_one.ask("a")
    assert next_one.paid == ["a"]


async def test_a_store_that_fails_at_the_look_up_leaves_nothing_taken(
    journal: Journal, store: MemoryStateStore
) -> None:
    await store.__aexit__(None, None, None)
    with pytest.raises(StateError):
        await Asking(journal.of_node("p", "n", "run-1")).ask("a")
    assert journal.in_flight == 0


async def test_answers_are_stored_even_if_the_run_is_cancelled(
    journal: Journal, store: MemoryStateStore
) -> None:
    with anyio.CancelScope() as scope:
        async with journal.of_node("p", "n", "run-1").claim(["a"]) as claim:
            scope.cancel()
            await claim.keep([JournalEntry("a", "paid for")])
    assert (await store.get_journal(["a"]))["a"].answer == "paid for"


async def test_an_answer_is_on_its_way_to_others_before_its_claim_ends(journal: Journal) -> None:
    other = Asking(journal.of_node("p", "n", "run-2"))
    async with journal.of_node("p", "n", "run-1").claim(["a", "b"]) as claim:
        await claim.keep([JournalEntry("a", "early")])
        await other.ask("a")
        assert other.got == {"a": "early"}
        assert journal.in_flight == 1


class _Late(MemoryStateStore):
    """Lets something happen after the next look-up has read and before it returns."""

    then: Callable[[], Awaitable[None]] | None = None

    async def get_journal(self, keys: Collection[str]) -> dict[str, JournalEntry]:
        found = await super().get_journal(keys)
        then, self.then = self.then, None
        if then is not None:
            await then()
        return found


async def test_answer_stored_during_a_lookup_is_not_missed() -> None:
    async with _Late() as late:
        journal = Journal(late, ScriptedClock(jump=True))
        first, second = (Asking(journal.of_node("p", "n", run)) for run in ("run-1", "run-2"))
        async with first.journal.claim(["a"]) as claim:
            late.then = partial(claim.keep, [JournalEntry("a", "just now")])
            await second.ask("a")
    assert second.got == {"a": "just now"}
    assert second.paid == []


async def test_an_entry_says_who_paid_and_when(journal: Journal, store: MemoryStateStore) -> None:
    node = journal.of_node("memos", "extract", "run-1")
    async with node.claim(["a"]) as claim:
        await claim.keep([JournalEntry("a", "x", cost_usd=0.5)])
    entry = (await store.get_journal(["a"]))["a"]
    assert (entry.pipeline, entry.node, entry.run_id) == ("memos", "extract", "run-1")
    assert entry.created_at == "2026-01-01T00:00:00.000Z"
    assert await node.spent() == 0.5
    assert await journal.of_node("memos", "extract", "run-2").spent() == 0.0


async def test_a_verdict_of_one_run_holds_for_that_run_alone(journal: Journal) -> None:
    async with journal.of_node("p", "n", "run-1").claim(["a"]) as claim:
        await claim.keep([JournalEntry("a", "no slot", outcome="SlotMissing", this_run_only=True)])
    async with journal.of_node("p", "n", "run-1").claim(["a"]) as again:
        assert again.answers["a"].outcome == "SlotMissing"
        assert again.ours == frozenset()
    async with journal.of_node("p", "n", "run-2").claim(["a"]) as other:
        assert other.answers == {}
        assert other.ours == {"a"}


async def test_without_a_pipeline_everything_is_ours_and_nothing_is_kept() -> None:
    journal = NoJournal()
    for _ in range(2):
        async with journal.claim(["a"]) as claim:
            assert claim.ours == {"a"}
            assert claim.answers == {}
            await claim.keep([JournalEntry("a", "x")])
        await claim.others()
    assert await journal.spent() == 0.0


def test_keys_are_taken_once_and_given_back(journal: Journal) -> None:
    ours, theirs = journal.take(["a", "b"])
    again, others = journal.take(["b", "c"])
    assert (ours, theirs, again, set(others)) == ({"a", "b"}, {}, {"c"}, {"b"})
    journal.give_back(["a", "b", "c"])
    assert others["b"].is_set()
    assert journal.in_flight == 0
