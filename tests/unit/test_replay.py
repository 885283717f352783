"""Plans that replay dead letters from the node that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import anyio
import pytest

from engine.config.model import Settings
from engine.contract.batch import Batch
from engine.contract.component import Kind, Params, Receipt
from engine.contract.dead_letter import DeadLetter
from engine.dead_letters import replay
from engine.dead_letters.patch import parse_patch
from engine.dead_letters.replay import (
    REPLAY_GROUP,
    LetterId,
    Obstacle,
    ReplayGroup,
    group_dead_letters,
    letter_id,
)
from engine.errors import FatalError, StateError
from engine.execution.engine import Engine
from engine.execution.replays import with_earlier_replays
from engine.execution.session import new_group
from engine.plan.model import DeadLetterSettings, Plan
from engine.state.memory import MemoryStateStore
from engine.state.records import DeadLetterFilter, RunStatus
from engine.testing import FaultySink, MemorySink, MemorySource, linear_plan, plan_of


def letter(node: str, key: str, **changes: object) -> DeadLetter:
    base = DeadLetter(
        "run-1", "test", node, key, node, "Poison", "bad", {"id": key, "n": 1},
        first_failed_at="2026-01-01T00:00:00Z", last_failed_at="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def diamond() -> tuple[Plan, MemorySink, MemorySink]:
    left, right = MemorySink(), MemorySink()
    plan = plan_of(
        {
            "read": (MemorySource([[{"id": "never read"}]]), []),
            "stage": (MemorySink(), ["read"]),
            "left": (left, ["stage"]),
            "right": (right, ["read", "stage"]),
            "aside": (MemorySink(), ["read"]),
        },
        settings=Settings(retries=3, on_complete=("other",), on_cancel=("other",), schedule="@daily"),
        dead_letters=DeadLetterSettings(max_count=1),
    )
    return plan, left, right


async def test_a_replay_runs_the_failing_node_and_everything_below_it() -> None:
    plan, left, right = diamond()
    (group,), obstacles = group_dead_letters([letter("stage", "k1"), letter("stage", "k2")], {"test": plan})
    assert obstacles == []
    assert [(node.name, node.inputs) for node in group.plan.nodes] == [
        ("dead_letters", ()),
        ("stage", ("dead_letters",)),
        ("left", ("stage",)),
        ("right", ("stage",)),
    ]
    async with Engine() as engine:
        report = await engine.run(group.plan)
    assert report.ok
    assert sorted(left.keys) == sorted(right.keys) == ["k1", "k2"]
    assert left.replays == [True]


async def test_letters_closed_before_the_sinks_are_open_are_not_sent() -> None:
    sink = MemorySink()
    plan = plan_of({"read": (MemorySource([[]]), []), "load": (sink, ["read"])})
    late, current = letter("load", "late"), letter("load", "current")

    async def still_open() -> set[LetterId]:
        return {letter_id(current)}

    (group,), _ = group_dead_letters([late, current], {"test": plan}, still_open=still_open)
    assert group.plan.keep_newer
    async with Engine() as engine:
        report = await engine.run(group.plan)
    assert report.ok
    assert sink.keys == ["current"]
    assert group.replayed == [current]


async def test_a_failed_replay_has_closed_what_it_has_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PAGE", 2)
    records = [[{"id": number} for number in range(6)]]
    poisoned = linear_plan(MemorySource(records), FaultySink(poison=lambda record: True))
    poisoned = replace(poisoned, dead_letters=DeadLetterSettings())
    full = linear_plan(MemorySource(records), FaultySink([None, FatalError("full")]))
    async with Engine() as engine:
        await engine.run(poisoned)
        letters = await engine.store.dead_letters(DeadLetterFilter())
        (group,), _ = group_dead_letters(letters, {"test": full})
        report = await engine.run(group.plan)
        found = await engine.store.dead_letters(DeadLetterFilter())
    assert report.status is RunStatus.FAILED
    assert [one.status for one in found] == ["replayed"] * 2 + ["open"] * 4


async def test_a_letter_stays_open_until_every_sink_has_its_record() -> None:
    def fan(stage: MemorySink, right: MemorySink) -> Plan:
        return plan_of(
            {
                "read": (MemorySource([[{"id": 1}]]), []),
                "stage": (stage, ["read"]),
                "left": (MemorySink(), ["stage"]),
                "right": (right, ["stage"]),
            },
            dead_letters=DeadLetterSettings(),
        )

    async with Engine() as engine:
        await engine.run(fan(FaultySink(poison=lambda record: True), MemorySink()))
        letters = await engine.store.dead_letters(DeadLetterFilter())
        full = fan(MemorySink(), FaultySink([FatalError("full")]))
        (group,), _ = group_dead_letters(letters, {"test": full})
        report = await engine.run(group.plan)
        found = await engine.store.dead_letters(DeadLetterFilter())
    assert report.status is RunStatus.FAILED
    assert [(one.node, one.status) for one in found] == [("stage", "open")]


class BusyStore(MemoryStateStore):
    """Cannot change dead letters the first time."""

    is_busy = True

    async def mark_dead_letters(self, letters: Sequence[DeadLetter], status: str, reason: str = "") -> None:
        was_busy, self.is_busy = self.is_busy, False
        if was_busy:
            raise StateError("busy")
        await super().mark_dead_letters(letters, status, reason)


async def test_letters_that_could_not_be_closed_are_closed_later() -> None:
    plan = linear_plan(MemorySource([[{"id": 1}]]), FaultySink(poison=lambda record: True))
    async with Engine(store=BusyStore()) as engine:
        await engine.run(replace(plan, dead_letters=DeadLetterSettings()))
        letters = await engine.store.dead_letters(DeadLetterFilter())
        (group,), _ = group_dead_letters(letters, {"test": linear_plan(MemorySource([]), MemorySink())})
        await engine.run(group.plan)
        found = await engine.store.dead_letters(DeadLetterFilter())
    assert [one.status for one in found] == ["replayed"]


def test_a_forced_replay_replaces_newer_rows() -> None:
    (group,), _ = group_dead_letters([letter("stage", "k1")], {"test": diamond()[0]})
    assert not group.plan.keep_newer
    assert group.replayed == list(group.letters)


def test_replay_plan_has_no_budget_retries_or_followers() -> None:
    plan, _, _ = diamond()
    (group,), _ = group_dead_letters([letter("stage", "k")], {"test": plan})
    assert group.plan.identity != plan.identity
    assert group.plan.dead_letters == DeadLetterSettings()
    assert group.plan.settings == replace(
        plan.settings, retries=0, on_complete=(), on_cancel=(), schedule="", if_running="allow"
    )


@pytest.mark.parametrize("changes", [{}, {"n": 2}])
async def test_record_dead_in_several_runs_is_sent_once_as_last_seen(
    changes: dict[str, int],
) -> None:
    sink = MemorySink()
    plan = linear_plan(MemorySource([]), sink)
    last = {"id": "k", "n": 1} | changes
    newer = letter("n1", "k", run_id="run-2", record=last, last_failed_at="2026-01-02T00:00:00Z")
    (group,), _ = group_dead_letters([newer, letter("n1", "k")], {"test": plan})
    assert len(group.letters) == 2
    async with Engine() as engine:
        await engine.run(group.plan)
    assert sink.records == [last]


async def test_different_records_of_one_key_are_all_sent_in_order() -> None:
    sink = MemorySink()
    plan = linear_plan(MemorySource([]), sink)
    day = "2026-01-0{}T00:00:00Z".format
    letters = [
        letter("n1", "a.jsonl:1", run_id="run-3", record={"id": "third"}, last_failed_at=day(3)),
        letter("n1", "a.jsonl:1", run_id="run-1", record={"id": "first"}, last_failed_at=day(1)),
        letter("n1", "a.jsonl:2", run_id="run-1", record={"id": "other"}, last_failed_at=day(1)),
        letter("n1", "a.jsonl:1", run_id="run-2", record={"id": "second"}, last_failed_at=day(2)),
        letter("n1", "a.jsonl:1", run_id="run-4", record={"id": "third"}, last_failed_at=day(4)),
        letter("n1", "a.jsonl:1", run_id="run-5", record={"id": "first"}, last_failed_at=day(5)),
    ]
    groups, _ = group_dead_letters(letters, {"test": plan})
    assert [len(group.letters) for group in groups] == [2, 1, 2, 1]
    async with Engine() as engine:
        for group in groups:
            await engine.run(group.plan)
    assert [record["id"] for record in sink.records] == ["first", "other", "second", "third", "first"]


async def test_patches_change_the_records_and_are_counted() -> None:
    sink = MemorySink()
    plan = linear_plan(MemorySource([]), sink)
    letters = [letter("n1", "a"), letter("n1", "b", record={"id": "b", "n": 2})]
    (group,), _ = group_dead_letters(letters, {"test": plan}, [parse_patch("n=2")])
    assert group.changed == 1
    async with Engine() as engine:
        await engine.run(group.plan)
    assert [record["n"] for record in sink.records] == [2, 2]


@pytest.mark.slow
async def test_more_letters_than_a_page_all_arrive_once() -> None:
    sink = MemorySink()
    letters = [letter("n1", f"k{number}") for number in range(1000)]
    (group,), _ = group_dead_letters(letters, {"test": linear_plan(MemorySource([]), sink)})
    async with Engine() as engine:
        report = await engine.run(group.plan)
    assert (report.tally.read, report.tally.written) == (1000, 1000)
    assert sorted(sink.keys) == sorted(one.key for one in letters)


async def test_a_letter_that_dies_again_is_a_new_letter_of_the_new_run() -> None:
    plan = linear_plan(MemorySource([]), FaultySink(poison=lambda record: record["id"] == "bad"))
    (group,), _ = group_dead_letters([letter("n1", "good"), letter("n1", "bad")], {"test": plan})
    async with Engine() as engine:
        report = await engine.run(group.plan)
        assert (report.status, report.tally.dead) == (RunStatus.COMPLETED, 1)
        (again,) = await engine.store.dead_letters(DeadLetterFilter(status="open"))
        assert (again.run_id, again.node, again.key) == (report.run_id, "n1", "bad")


def test_what_cannot_be_sent_again_is_explained() -> None:
    plan = linear_plan(MemorySource([]), MemorySink())
    letters = [
        letter("n0", "in the source"),
        letter("n1", "too large", record=None, reference="s3://b/k"),
        letter("gone", "node renamed"),
        letter("n1", "pipeline renamed", pipeline="old"),
    ]
    groups, obstacles = group_dead_letters(letters, {"test": plan})
    assert groups == []
    reasons = {one.letters[0].key: one.reason for one in obstacles}
    assert "so there is no record to replay" in reasons["in the source"]
    assert "the record was too large" in reasons["too large"]
    assert reasons["node renamed"] == "pipeline `test` no longer has a node `gone`"
    assert "no longer has a pipeline `old`" in reasons["pipeline renamed"]
    assert all(isinstance(one, Obstacle) for one in obstacles)


class Whole(Params):
    mode: str = "replace"


def test_letters_before_a_sink_that_replaces_are_not_sent() -> None:
    plan = plan_of(
        {
            "read": (MemorySource([]), []),
            "rows": (MemorySink(), ["read"]),
            "table": (MemorySink(), ["rows"]),
            "aside": (MemorySink(), ["read"]),
        }
    )
    nodes = tuple(replace(one, params=Whole()) if one.name == "table" else one for one in plan.nodes)
    letters = [letter(name, "k") for name in ("rows", "table", "aside")]
    groups, obstacles = group_dead_letters(letters, {"test": replace(plan, nodes=nodes)})
    assert [group.node for group in groups] == ["aside"]
    assert [one.letters[0].node for one in obstacles] == ["rows", "table"]
    assert all("--set pipelines.test.nodes.table.with.mode=append" in one.reason for one in obstacles)


def test_a_node_that_is_called_like_the_source_keeps_its_name() -> None:
    plan = plan_of({"read": (MemorySource([]), []), "dead_letters": (MemorySink(), ["read"])})
    (group,), _ = group_dead_letters([letter("dead_letters", "k")], {"test": plan})
    assert [(node.name, node.kind) for node in group.plan.nodes] == [
        ("dead_letters_", Kind.SOURCE),
        ("dead_letters", Kind.SINK),
    ]


@pytest.mark.parametrize(
    ("selected", "patch", "discarded", "continued", "new", "refused"),
    [
        ("ab", "n=2", "", "ab", "", ""),
        ("abc", "n=2", "", "ab", "c", ""),
        ("c", "n=2", "", "", "c", ""),
        ("a", "n=2", "", "", "", "a"),
        ("a", "n=2", "b", "a", "", ""),
        ("ab", "n=3", "", "", "ab", ""),
    ],
    ids=["same", "more", "others", "fewer", "rest discarded", "other records"],
)
async def test_an_interrupted_replay_continues_with_all_it_may_have_sent(
    selected: str, patch: str, discarded: str, continued: str, new: str, refused: str
) -> None:
    letters = {key: letter("n1", key) for key in "abc"}
    plan = linear_plan(MemorySource([]), FaultySink([FatalError("full")] * 9))

    def grouped(some: Sequence[DeadLetter], patch: str = patch) -> list[ReplayGroup]:
        return group_dead_letters(some, {"test": plan}, [parse_patch(patch)])[0]

    async with Engine() as engine:
        await engine.store.put_dead_letters(list(letters.values()))
        (first,) = grouped([letters["a"], letters["b"]], "n=2")
        async with engine.start(first.plan, group_id=REPLAY_GROUP + new_group(engine)) as run:
            assert (await run.wait()).status is RunStatus.FAILED
        await engine.store.mark_dead_letters([letters[key] for key in discarded], "discarded", "x")
        groups = grouped([letters[key] for key in selected])
        replays, obstacles = await with_earlier_replays(engine.store, engine.clock, groups, grouped)

    found = {
        before.run_id if before else "": "".join(one.key for one in group.letters)
        for group, before in replays
    }
    assert (found.get(run.run_id, ""), found.get("", "")) == (continued, new)
    assert ["".join(one.key for one in each.letters) for each in obstacles] == [refused] * bool(refused)
    assert all("also has 1 other, and may have delivered some" in each.reason for each in obstacles)


async def test_a_changed_pipeline_does_not_continue_a_replay() -> None:
    plan = linear_plan(MemorySource([]), FaultySink([FatalError("full")]))
    changed = replace(plan, identity_doc={"changed": True})

    def grouped(some: Sequence[DeadLetter], plan: Plan = changed) -> list[ReplayGroup]:
        return group_dead_letters(some, {"test": plan})[0]

    async with Engine() as engine:
        await engine.store.put_dead_letters([letter("n1", "a")])
        (first,) = grouped([letter("n1", "a")], plan)
        async with engine.start(first.plan, group_id=REPLAY_GROUP + new_group(engine)) as run:
            assert (await run.wait()).status is RunStatus.FAILED
        groups = grouped([letter("n1", "a")])
        replays, obstacles = await with_earlier_replays(engine.store, engine.clock, groups, grouped)
    assert ([before for _, before in replays], obstacles) == ([None], [])


class StalledSink(MemorySink):
    """Writes when it is released."""

    def __init__(self) -> None:
        self.reached, self.released = anyio.Event(), anyio.Event()
        super().__init__(stall=self.released)

    async def write(self, batch: Batch) -> Receipt:
        self.reached.set()
        return await super().write(batch)


async def test_dead_letters_that_are_being_replayed_are_refused() -> None:
    sink = StalledSink()
    plan = linear_plan(MemorySource([]), sink)

    def grouped(some: Sequence[DeadLetter]) -> list[ReplayGroup]:
        return group_dead_letters(some, {"test": plan})[0]

    async with Engine() as engine:
        await engine.store.put_dead_letters([letter("n1", "a")])
        (group,) = grouped([letter("n1", "a")])
        async with (
            engine.start(group.plan, group_id=REPLAY_GROUP + new_group(engine)) as run,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(run.wait)
            await sink.reached.wait()
            replays, obstacles = await with_earlier_replays(engine.store, engine.clock, [group], grouped)
            sink.released.set()
    reason = f"the run {run.run_id} is replaying them now: try again when it has ended"
    assert (replays, [one.reason for one in obstacles], sink.keys) == ([], [reason], ["a"])
