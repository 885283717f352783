"""The results in a report: records, tables, and a table for notebooks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextvars import Context
from dataclasses import replace
from typing import Any

import pytest

import engine
from engine.errors import ConfigError
from engine.execution.report import RunReport
from engine.pipeline import Reports


@engine.source
async def rows() -> AsyncGenerator[dict[str, Any], None]:
    for number in range(5):
        yield {"n": number, "name": f"<n{number}>"}


def pipeline(**params: Any) -> engine.Pipeline:
    return engine.Pipeline("p", rows=engine.node(rows), load=engine.node("sink.memory", **params))


def test_run_sync_returns_records_of_a_memory_sink() -> None:
    report = engine.run_sync(pipeline())["p"]

    assert [record["n"] for record in report.records("load")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("what", "params", "message"),
    [
        (pipeline(), {"p": {"x": 1}}, "`params` only apply to a file"),
        (5, None, "expected a file, a pipeline or plans to run, got int"),
    ],
)
def test_options_without_effect_are_refused(what: Any, params: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.run_sync(what, params=params)


def test_the_first_dead_letter_is_in_the_report() -> None:
    made = engine.Pipeline(
        "p",
        settings={"dead_letters": {"max": "100%"}},
        rows=engine.node(rows),
        change=engine.node("transform.map", set={"x": "1 / n"}),
        keep=engine.node("sink.memory"),
    )
    report = engine.run_sync(made)["p"]
    assert report.first_dead_letter.startswith("at `change`: ExpressionError: ")
    assert (report.dead_letters, report.to_json()["first_dead_letter"]) == (1, report.first_dead_letter)


async def test_run_sync_works_where_an_event_loop_runs() -> None:
    assert engine.run_sync(pipeline())["p"].ok


async def test_run_sync_works_in_a_callback_of_an_event_loop() -> None:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bool] = loop.create_future()
    loop.call_soon(lambda: done.set_result(engine.run_sync(pipeline())["p"].ok))

    assert await done


def test_run_sync_works_in_a_process_that_a_task_forked() -> None:
    sniffio = pytest.importorskip("sniffio")

    def forked() -> bool:
        sniffio.current_async_library_cvar.set("asyncio")  # the child has the context of the task
        return engine.run_sync(pipeline())["p"].ok

    assert Context().run(forked)


def test_records_become_a_table() -> None:
    pytest.importorskip("pyarrow")
    table = engine.run_sync(pipeline())["p"].table("load")

    assert table.column_names == ["n", "name"]
    assert table.num_rows == 5


def reported(*records: dict[str, Any]) -> RunReport:
    @engine.source
    async def given() -> AsyncGenerator[dict[str, Any], None]:
        for record in records:
            yield record

    made = engine.Pipeline("p", given=engine.node(given), load=engine.node("sink.memory"))
    return engine.run_sync(made)["p"]


def test_a_table_has_the_fields_of_all_records() -> None:
    pytest.importorskip("pyarrow")
    table = reported({"a": 1}, {"b": 2}, {"a": None, "c": [1]}).table("load")

    assert table.to_pydict() == {"a": [1, None, None], "b": [None, 2, None], "c": [None, None, [1]]}
    assert reported().table("load").num_rows == 0


@pytest.mark.parametrize("odd", ["secret", 2**70])
def test_values_that_cannot_be_one_column_are_named(odd: Any) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(ConfigError, match=r"values of 'b' cannot be one column.*`report\.records") as caught:
        reported({"a": 1, "b": 1}, {"a": 2, "b": odd}).table("load")
    assert "secret" not in str(caught.value)


def test_records_of_another_sink_are_refused_with_the_remedy() -> None:
    report = engine.run_sync(pipeline())["p"]

    with pytest.raises(ConfigError, match=r"no sink 'rows' keeps its records \(known: load\)"):
        report.records("rows")


def test_memory_sink_is_bounded() -> None:
    report = engine.run_sync(pipeline(max_records=3))["p"]

    assert "more than 3 records: raise `max_records`" in report.error


def test_notebooks_show_reports_without_markup_of_others() -> None:
    report = replace(engine.run_sync(pipeline())["p"], error="no such <b>table</b>")

    shown = Reports(p=report)._repr_html_()
    assert "no such &lt;b&gt;table&lt;/b&gt;" in shown
    assert "<td>load</td><td>memory</td><td>5</td>" in shown


async def test_a_stop_inside_a_batch_reports_what_was_delivered() -> None:
    delivered: list[list[int]] = []

    @engine.source(key="n")
    async def four() -> AsyncGenerator[list[dict[str, int]], None]:
        yield [{"n": number} for number in range(4)]

    @engine.sink(records=2)
    async def half(records: list[dict[str, int]]) -> None:
        if delivered:
            raise engine.FatalError("full")
        delivered.append([record["n"] for record in records])

    made = engine.Pipeline("p", four=engine.node(four), half=engine.node(half))
    report = (await engine.run(made))["p"]
    assert delivered == [[0, 1]]
    assert (report.status, report.tally.written) == (engine.RunStatus.FAILED, 0)
    assert report.unsettled.written == 2
    assert report.to_json()["unsettled"] == report.unsettled.to_json()
