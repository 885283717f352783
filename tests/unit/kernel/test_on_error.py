"""`on_error`: the outcome of a record for which a node fails unexpectedly."""

from __future__ import annotations

from typing import Any

import pytest

import engine
from engine.config import load_mapping
from engine.errors import RecordError
from engine.execution.report import RunReport
from engine.state.records import RunStatus

pytestmark = pytest.mark.anyio

VALUES: list[Any] = [1, 0, 2, "SECRET", 4]


@engine.source
async def values() -> Any:
    """The values, as records."""
    yield [{"n": value} for value in VALUES]


@engine.transform
def inverted(record: dict[str, Any]) -> dict[str, Any]:
    """Divides by a field that may be no number."""
    return {"n": 1 / record["n"]}


@engine.transform
async def inverted_async(record: dict[str, Any]) -> dict[str, Any]:
    """The same, as a coroutine."""
    return {"n": 1 / record["n"]}


@engine.transform(batch=True)
def inverted_batch(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, for a whole batch."""
    return [{"n": 1 / record["n"]} for record in records]


@engine.filter
def large(record: dict[str, Any]) -> bool:
    """Keeps what has a small inverse."""
    return 1 / record["n"] < 2


@engine.transform
def on_purpose(record: dict[str, Any]) -> dict[str, Any]:
    """Sends a record to the dead letters on purpose."""
    if record["n"] == 2:
        raise RecordError("two is not wanted", kind="NotTwo")
    return {"n": 1 / record["n"]}


async def run(node: engine.Node) -> tuple[RunReport, list[Any]]:
    taken: list[Any] = []

    @engine.sink
    def collect(records: list[Any]) -> None:
        taken.extend(records)

    pipeline = engine.Pipeline(
        "p",
        settings={"dead_letters": {"max": "100%"}},
        read=engine.node(values),
        work=node,
        load=engine.node(collect),
    )
    report = (await engine.run(pipeline))["p"]
    return report, taken


def with_option(component: object, on_error: str | None, **params: Any) -> engine.Node:
    return engine.node(component, options={"on_error": on_error} if on_error else {}, **params)


FUNCTIONS = [inverted, inverted_async, inverted_batch, large]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
async def test_a_function_that_fails_stops_the_run_by_default(function: Any) -> None:
    for node in (with_option(function, None), with_option(function, "stop")):
        report, _ = await run(node)

        assert report.status is RunStatus.FAILED
        assert "ZeroDivisionError at" in report.error
        assert "test_on_error.py" in report.error


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
async def test_its_records_are_dead_letters_if_configured(function: Any) -> None:
    report, taken = await run(with_option(function, "dead_letter"))

    assert report.status is RunStatus.COMPLETED, report.error
    assert report.tally.balanced
    assert (len(taken), report.tally.dead, report.tally.dropped) == (3, 2, 0)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
async def test_its_records_are_dropped_by_the_name_of_the_error(function: Any) -> None:
    report, taken = await run(with_option(function, "drop"))

    assert report.status is RunStatus.COMPLETED, report.error
    assert report.tally.balanced
    assert (len(taken), report.tally.dead) == (3, 0)
    assert report.tally.drops == {"work: error ZeroDivisionError": 1, "work: error TypeError": 1}


async def test_what_fails_on_purpose_stays_a_dead_letter() -> None:
    report, taken = await run(with_option(on_purpose, "drop"))

    assert (len(taken), report.tally.dead, report.tally.dropped) == (2, 1, 2)


@engine.transform
def first_above(record: dict[str, Any]) -> dict[str, Any]:
    """Takes the first of some numbers, where there may be none."""
    return {"n": next(n for n in (1, 2, 3) if n > record["n"])}


@engine.filter
def has_one_above(record: dict[str, Any]) -> bool:
    """The same, as a filter."""
    return bool(next(n for n in (1, 2, 3) if n > record["n"]))


@pytest.mark.parametrize("function", [first_above, has_one_above], ids=lambda one: one.__name__)
async def test_stop_iteration_is_an_error_like_others(function: Any) -> None:
    report, _ = await run(with_option(function, "stop"))

    assert report.status is RunStatus.FAILED
    assert "TypeError at" in report.error  # of "SECRET", which comes before 4

    report, taken = await run(with_option(function, "drop"))

    assert report.tally.balanced
    assert len(taken) == 3
    assert report.tally.drops == {"work: error StopIteration": 1, "work: error TypeError": 1}


async def test_stop_iteration_stops_a_run_at_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.VALUES", [1, 4])

    report, _ = await run(with_option(first_above, "stop"))

    assert report.status is RunStatus.FAILED
    assert "StopIteration at" in report.error
    assert "test_on_error.py" in report.error


@pytest.mark.parametrize(
    ("on_error", "status", "counts"),
    [
        (None, RunStatus.COMPLETED, (3, 2, 0)),
        ("dead_letter", RunStatus.COMPLETED, (3, 2, 0)),
        ("drop", RunStatus.COMPLETED, (3, 0, 2)),
        ("stop", RunStatus.FAILED, (0, 0, 0)),
    ],
)
async def test_an_expression_that_fails_is_a_dead_letter_unless_the_node_says_otherwise(
    on_error: str | None, status: RunStatus, counts: tuple[int, int, int]
) -> None:
    report, taken = await run(with_option("transform.map", on_error, set={"n": "1 / n"}))

    assert report.status is status, report.error
    tally = report.tally
    if on_error != "stop":
        assert (len(taken), tally.dead, tally.dropped) == counts
    else:
        assert "expression `1 / n` failed: cannot divide by zero, at record 1" in report.error
        assert "SECRET" not in report.error


async def test_a_sink_that_fails_for_a_record_delivers_the_others() -> None:
    taken: list[Any] = []

    @engine.sink
    def picky(records: list[Any]) -> None:
        for record in records:
            1 / record["n"]
        taken.extend(records)

    pipeline = engine.Pipeline(
        "p",
        settings={"dead_letters": {"max": "100%"}},
        read=engine.node(values),
        load=engine.node(picky, options={"on_error": "dead_letter"}),
    )
    report = (await engine.run(pipeline))["p"]

    assert report.status is RunStatus.COMPLETED, report.error
    assert [record["n"] for record in taken] == [1, 2, 4]
    assert report.tally.dead == 2


def test_a_source_cannot_continue_after_its_error() -> None:
    nodes = {"read": {"source": "blob", "on_error": "drop"}, "load": {"sink": "stdout"}}
    file = load_mapping({"version": 1, "pipelines": {"p": {"nodes": nodes}}}, environ={})

    assert any("a source that fails stops the run" in problem.message for problem in file.problems)
