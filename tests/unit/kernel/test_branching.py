"""Records go to the nodes that read their branches, and each is accounted for once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch, join
from engine.contract.keys import KeyRange
from engine.dead_letters.replay import replay_plan
from engine.errors import RecordError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.flow.branching import divide
from engine.flow.settle import settle_written
from engine.state.records import RunStatus
from engine.testing import MemorySink, MemorySource
from tests.unit.kernel.routed import plan_with

pytestmark = pytest.mark.anyio

PAGES: list[list[Any]] = [
    [{"id": f"r{n}", "n": n} for n in range(page * 10, page * 10 + 10)] for page in range(5)
]


def taken(sink: MemorySink) -> list[int]:
    return sorted(record["n"] for record in sink.records)


async def run(
    nodes: dict[str, Any], pages: list[list[Any]] | None = None
) -> tuple[RunReport, dict[str, MemorySink]]:
    sinks = {name: MemorySink() for name, node in nodes.items() if node.get("sink")}
    source = MemorySource(PAGES if pages is None else pages)
    plan = plan_with({"read": {"source": "numbers"}, **nodes}, {"read": source, **sinks})
    async with Engine() as engine:
        report = await engine.run(plan)
    assert report.status is RunStatus.COMPLETED, report.error
    assert report.tally.balanced
    return report, sinks


def keep(*inputs: str) -> dict[str, Any]:
    return {"sink": "keep", "input": list(inputs)}


async def test_each_record_goes_to_the_first_branch_that_fits() -> None:
    route = {"branches": {"low": "n < 10", "even": "n % 2 == 0"}, "else": "rest"}

    report, sinks = await run(
        {"split": {"route": route}, "a": keep("split.low"), "b": keep("split.even"), "c": keep("split.rest")}
    )

    assert taken(sinks["a"]) == list(range(10))
    assert taken(sinks["b"]) == list(range(10, 50, 2))
    assert taken(sinks["c"]) == list(range(11, 50, 2))
    assert sorted(sinks["a"].keys) == sorted(f"all#{n}" for n in range(10)) or len(set(sinks["a"].keys)) == 10
    assert (report.tally.written, report.tally.forked, report.tally.dropped) == (50, 0, 0)


async def test_what_fits_nowhere_is_dropped_by_name() -> None:
    route = {"branches": {"low": "n < 10", "high": "n > 40"}, "drop": ["high"]}

    report, sinks = await run({"split": {"route": route}, "a": keep("split.low")})

    assert taken(sinks["a"]) == list(range(10))
    assert report.tally.drops == {"split: no route": 31, "split: high: dropped by the route": 9}


async def test_a_record_may_go_to_all_branches_that_fit() -> None:
    route = {"branches": {"low": "n < 30", "high": "n >= 20"}, "match": "all"}

    report, sinks = await run({"split": {"route": route}, "a": keep("split.low"), "b": keep("split.high")})

    assert taken(sinks["a"]) == list(range(30))
    assert taken(sinks["b"]) == list(range(20, 50))
    assert (report.tally.written, report.tally.forked) == (60, 10)


async def test_a_branch_may_have_several_readers_and_a_reader_several_branches() -> None:
    route = {"branches": {"low": "n < 10", "mid": "n < 20"}, "else": "rest"}

    report, sinks = await run(
        {
            "split": {"route": route},
            "a": keep("split.low", "split.rest"),
            "b": keep("split.low"),
            "c": keep("split.mid"),
        }
    )

    assert taken(sinks["a"]) == [*range(10), *range(20, 50)]
    assert taken(sinks["b"]) == list(range(10))
    assert taken(sinks["c"]) == list(range(10, 20))
    assert report.tally.forked == 10


async def test_branches_are_merged_again_after_their_own_nodes() -> None:
    route = {"branches": {"low": "n < 10"}, "else": "rest"}

    _, sinks = await run(
        {
            "split": {"route": route},
            "lows": {"map": {"set": {"kind": "'low'"}}, "input": "split.low"},
            "rests": {"map": {"set": {"kind": "'rest'"}}, "input": "split.rest"},
            "load": keep("lows", "rests"),
        }
    )

    assert taken(sinks["load"]) == list(range(50))
    assert {record["kind"] for record in sinks["load"].records if record["n"] < 10} == {"low"}
    assert len(set(sinks["load"].keys)) == 50


@pytest.mark.parametrize(
    "options", [{}, {"concurrency": 3}, {"concurrency": 3, "ordered": True}, {"batch": {"records": 7}}]
)
async def test_a_router_works_wherever_it_stands(options: dict[str, Any]) -> None:
    first = {"branches": {"low": "n < 25"}, "else": "high"}
    second = {"branches": {"even": "n % 2 == 0"}, "else": "odd"}

    report, sinks = await run(
        {
            "before": {"filter": "n != 7"},
            "split": {"route": first, "key_suffix": "/x", **options},
            "again": {"route": second, "input": "split.low", **options},
            "a": keep("again.even"),
            "b": keep("again.odd", "split.high"),
        }
    )

    assert taken(sinks["a"]) == list(range(0, 25, 2))
    assert taken(sinks["b"]) == [n for n in range(50) if n != 7 and (n >= 25 or n % 2)]
    assert all(key.endswith("/x") for key in sinks["a"].keys)
    assert report.tally.dropped == 1


async def test_a_condition_that_fails_is_the_records_own_dead_letter() -> None:
    pages: list[list[Any]] = [[{"n": 1}, {"n": "text"}, {"n": 3}]]
    route = {"branches": {"low": "n < 2"}, "else": "rest"}

    report, sinks = await run(
        {"split": {"route": route}, "a": keep("split.low"), "b": keep("split.rest")}, pages
    )

    assert (taken(sinks["a"]), taken(sinks["b"]), report.tally.dead) == ([1], [3], 1)


async def test_a_replay_from_a_router_takes_its_branches_again() -> None:
    route = {"branches": {"low": "n < 10"}, "else": "rest"}
    sinks = {"a": MemorySink(), "b": MemorySink()}
    nodes = {
        "read": {"source": "numbers"},
        "split": {"route": route},
        "a": keep("split.low"),
        "b": keep("split.rest"),
    }
    plan = plan_with(nodes, sinks)

    async with Engine() as engine:
        report = await engine.run(replay_plan(plan, "split", MemorySource([[{"n": 1}, {"n": 11}]])))  # type: ignore[arg-type]

    assert report.tally.balanced
    assert (taken(sinks["a"]), taken(sinks["b"])) == ([1], [11])


masks = st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12)


@pytest.mark.slow
@given(
    marks=masks,
    cut=st.integers(0, 12),
    readers=st.lists(st.sets(st.sampled_from("abc")), min_size=1, max_size=4),
)
def test_every_part_of_a_batch_is_settled_exactly_once(
    marks: list[list[bool]], cut: int, readers: list[set[str]]
) -> None:
    cut = min(cut, len(marks))
    parts = [(0, cut), (cut, len(marks))]
    batches = []
    for start, stop in parts:
        if start < stop:
            batch = Batch(list(range(start, stop)), KeyRange("k/", start, stop))
            batch.origins = [(SplitTracker(f"s{start}").begin(stop - start, None), stop - start)]
            batches.append(batch)
    whole = join(batches)
    acks = [ack for ack, _ in whole.origins]
    derived = whole.replace(list(whole.records))
    derived.branches = {name: [row[place] for row in marks] for place, name in enumerate("abc")}

    made = divide(derived, [tuple(names) for names in readers], "n: nowhere")
    for part in made:
        assert part.branches is None
        assert sum(count for _, count in part.origins) == len(part.records)
        settle_written(part.origins, confirmed=True)

    for names, part in zip(readers, made, strict=True):
        wanted = [
            n for n, row in enumerate(marks) if not names or any(row["abc".index(name)] for name in names)
        ]
        assert part.records == wanted
        assert part.keys.to_list() == [f"k/{n}" for n in wanted]
    for ack in acks:
        assert ack.complete
        assert ack.tally.balanced


def test_a_router_names_the_branch_whose_condition_failed() -> None:
    from connectors.transforms.routing import Route, RouteParams

    params = RouteParams.model_validate({"branches": {"a": "n == 1", "b": "1 / n > 0"}})
    derived = Route(params).apply(Batch([{"n": 1}, {"n": 0}], KeyRange("k/", 0, 2)))

    ((index, error),) = derived.failures
    assert index == 1
    assert isinstance(error, RecordError)
    assert "branch `b`: expression `1 / n > 0` failed" in str(error)


def test_branches_whose_code_is_equal_are_distinguished() -> None:
    from connectors.transforms.routing import Route, RouteParams

    # patterns are not in the code, which is the same for both
    conditions = {name: f"matches(t, '{name}') and t + 1" for name in "ab"}
    route = Route(RouteParams.model_validate({"branches": conditions}))
    derived = route.apply(Batch([{"t": "b"}], KeyRange("k/", 0, 1)))

    assert "branch `b`: expression `matches(t, 'b')" in str(derived.failures[0][1])
