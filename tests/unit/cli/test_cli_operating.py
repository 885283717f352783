"""Model calls on the operator's page."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anyio
import pytest

from engine.cli.local.hosting import PipelineHost
from engine.cli.local.operating import PipelineOperations, RunLog
from engine.contract.acks import Tally
from engine.contract.dead_letter import DeadLetter
from engine.contract.journal import JournalEntry
from engine.errors import ServiceError
from engine.execution.engine import Engine
from engine.execution.events import RunEvent
from engine.execution.report import RunReport
from engine.execution.session import Session
from engine.service.models import Origin
from engine.service.operations import DeadRecord, LetterWhere, OperationsError, RunStartError
from engine.state.memory import MemoryStateStore
from engine.state.records import DeadLetterFilter, Progress, RunStatus

FILE = """\
pipelines:
  memos:
    nodes:
      files: {source: files, with: {pattern: "*.txt"}}
      rows: {transform: stage_documents}
      extract:
        transform: llm_extract
        with: {connection: model, schema: Medical, trace: true, redact: ['\\d{3}-\\d{4}', Zo\u00eb]}
      load: {sink: stdout}
connections: {model: {base_url: sandbox}}
"""
KEY = "lake/a.txt@v1"
PAID = JournalEntry(
    "1", "{}", record=KEY, run_id="run-1", pipeline="memos", node="extract", prompt="ask", reply="said",
    created_at="2026-11-23T08:00:00.000Z",
)  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "p.yaml"
    path.write_text(FILE, encoding="utf-8")
    return str(path)


@asynccontextmanager
async def hosting(file: str, *paid: JournalEntry) -> AsyncIterator[PipelineOperations]:
    async with MemoryStateStore() as store, Engine(store=store) as engine, anyio.create_task_group() as group:
        await store.put_journal(paid)
        operations = PipelineOperations(file, RunLog())
        operations.attach(engine, group)
        yield operations


async def test_a_run_shows_its_own_calls_or_the_latest(file: str) -> None:
    second = replace(PAID, key="2", run_id="run-2", created_at="2026-11-23T09:00:00.000Z")
    other = replace(PAID, key="3", record="lake/a.txt.old@v1")
    async with hosting(file, PAID, second, other) as operations:
        payers = {run: await operations.calls("lake/a.txt", run) for run in ("run-1", "run-2", "run-3")}
        assert await operations.calls("", "run-1") == []
    assert {run: [one.run_id for one in calls] for run, calls in payers.items()} == {
        "run-1": ["run-1"],
        "run-2": ["run-2"],
        "run-3": ["run-2"],
    }


async def test_calls_are_redacted_as_declared_and_cut(file: str) -> None:
    answer = '{"name":"Zo\\u00eb","phone":"555-0199"}'
    async with hosting(file, replace(PAID, answer=answer, prompt="p" * 30_000)) as operations:
        (call,) = await operations.calls(KEY, "run-1")
    assert call.answer == '{"name":"***","phone":"***"}'
    assert call.prompt.startswith("p" * 20_000 + "\n\u2026 10,000 more characters")
    assert call.reply == "said"


async def test_a_record_with_many_calls_shows_the_latest(file: str) -> None:
    many = [replace(PAID, key=f"{n:03}", answer=str(n)) for n in range(30)]
    async with hosting(file, *many) as operations:
        calls = await operations.calls(KEY, "run-1")
    assert [one.answer for one in calls] == [str(n) for n in range(10, 30)]


async def test_calls_are_asked_for_before_the_service_is_ready(file: str) -> None:
    with pytest.raises(OperationsError, match="is starting"):
        await PipelineOperations(file, RunLog()).calls(KEY, "run-1")


@asynccontextmanager
async def one_letter(folder: Path) -> AsyncIterator[tuple[PipelineOperations, str]]:
    """Operations, and the id of a dead letter: `n` of its record is no number."""
    file, ended = folder / "p.yaml", anyio.Event()
    (folder / "in.jsonl").write_text('{"n": "one"}\n')
    file.write_text(
        "pipelines:\n  p:\n    dead_letters: {max: 100%}\n    nodes:\n"
        f"      read: {{source: jsonl, with: {{path: {folder}/in.jsonl}}}}\n"
        "      check: {transform: filter, with: {where: n > 0}}\n"
        f"      write: {{sink: jsonl, with: {{path: {folder}/out.jsonl}}}}\n"
    )
    async with hosting(str(file)) as operations:
        operations.watch_ends(lambda *_: ended.set())
        await operations.start("p", {})
        with anyio.fail_after(300):
            await ended.wait()
        (letter,) = await operations.letters(LetterWhere())
        yield operations, letter.id


@pytest.mark.slow
async def test_a_record_that_dies_again_can_be_corrected_again(tmp_path: Path) -> None:
    async with one_letter(tmp_path) as (operations, letter_id):
        with pytest.raises(OperationsError, match="It died again"):
            await operations.replay(letter_id, '{"n": "two"}', force=False)
        await operations.replay(letter_id, '{"n": 2}', force=False)
    assert (tmp_path / "out.jsonl").read_text() == '{"n":2}\n'


@pytest.mark.slow
async def test_a_replay_that_was_killed_is_completed_by_the_next(tmp_path: Path) -> None:
    async with one_letter(tmp_path) as (operations, letter_id):
        store = operations._store()
        (letter,) = await store.dead_letters(DeadLetterFilter())
        run_id = await operations.replay(letter_id, '{"n": 2}', force=False)
        # the process is killed before it stores what the sink has
        await store.mark_dead_letters([letter], "open")
        (split,), _ = await store.splits(run_id, "dead_letters")
        await store.commit(run_id, [Progress("dead_letters", split.split.key, None, False, Tally())], epoch=1)
        await store.update_run(run_id, status=RunStatus.RUNNING, epoch=1)
        again = await operations.replay(letter_id, '{"n": 2}', force=False)
    assert again == run_id


@pytest.mark.slow
async def test_two_replays_at_once_send_a_record_once(tmp_path: Path) -> None:
    said = list[str]()
    async with one_letter(tmp_path) as (operations, letter_id):

        async def replay() -> None:
            try:
                said.append(await operations.replay(letter_id, '{"n": 1}', force=False))
            except OperationsError as error:
                said.append(str(error))

        async with anyio.create_task_group() as group:
            group.start_soon(replay)
            group.start_soon(replay)
        (tmp_path / "p.yaml").write_text("pipelines: [")
        with pytest.raises(OperationsError, match=r"p\.yaml:1:13"):
            await operations.replay(letter_id, '{"n": 1}', force=True)
    assert sorted(text.startswith("This record is being replayed") for text in said) == [False, True]


async def test_a_run_that_cannot_start_says_why(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def provide(*arguments: object) -> None:
        raise ServiceError("the ingest service is older than its file")

    async with hosting(file) as operations:
        monkeypatch.setattr(Engine, "provide", provide)
        with pytest.raises(RunStartError, match="is older than its file"):
            await operations.start("memos", {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "made"),
    [("extract-blob", "100"), ("blob-workflow", "100"), ("extract-blobs", ""), ("blobs", "")],
)
async def test_triggers_of_the_original_make_its_hundred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, made: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "p.yaml"
    file.write_text(
        "pipelines:\n  blobs:\n    params: {batch_size: 3}\n    nodes:\n"
        '      a: {source: blob, with: {records: "${params.batch_size}"}}\n'
        "      b: {sink: jsonl, with: {path: out.jsonl}}\n"
        "aliases: {extract-blob: blobs, blob-workflow: blobs}\n"
    )
    async with MemoryStateStore() as store, Engine(store=store) as engine, anyio.create_task_group() as group:
        host = PipelineHost(str(file))
        host.attach(engine, group)
        started = await host.start(name, {})
        given = await host.start(name, {"batch_size": "7"})
        with pytest.raises(RunStartError, match=r"^parameter `batch_size` of `blobs`: expected an integer"):
            await host.start(name, {"batch_size": "many"})
        group.cancel_scope.cancel()
    assert started.params.get("batch_size", "") == made
    assert given.params == {"batch_size": "7"}


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("9" * 20, "`batch_size` must be at most 1,000,000,000"),
        ("9" * 5_000, "`batch_size` must be at most 1,000,000,000"),
        (
            "0x" + "f" * 5_000,
            "`batch_size`: expected less than or equal to 1000000000, got an integer of too",
        ),
        ("-1", "`batch_size`: expected greater than or equal to 1, got -1"),
        ("1e3", "parameter `batch_size` of `blobs`: expected an integer, got '1e3'"),
    ],
)
async def test_a_trigger_names_the_limit_of_its_records(tmp_path: Path, size: str, said: str) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "pipelines:\n  blobs:\n    params: {batch_size: 3}\n    nodes:\n"
        '      a: {source: blob, with: {records: "${params.batch_size}"}}\n      b: {sink: stdout}\n'
    )
    async with MemoryStateStore() as store, Engine(store=store) as engine, anyio.create_task_group() as group:
        host = PipelineHost(str(file))
        host.attach(engine, group)
        with pytest.raises(RunStartError, match=f"^{re.escape(said)}") as refused:
            await host.start("blobs", {"batch_size": size})
    assert refused.value.is_callers


def test_a_stage_says_each_number_once_and_no_zeros() -> None:
    log = RunLog()
    numbers = {"records_in": 2, "dead": 1, "retries": 0, "tokens_in": 6206, "note": "late"}
    log(RunEvent("load_finished", "load (ingest): 2 records in, 1 out, 1 dead", "info", "p", "r", numbers))
    (stage,) = log.of("r").stages
    assert stage.text == "load (ingest): 2 records in, 1 out, 1 dead, 6,206 tokens in, late note"


def test_one_of_a_kind_is_shown_in_the_singular() -> None:
    log = RunLog()
    numbers = {"requests": 1, "retries": 1, "bytes": 1}
    log(RunEvent("load_finished", "done", "info", "p", "r", numbers))
    assert log.of("r").stages[0].text == "done, 1 request, 1 retry, 1 byte"


async def test_the_last_records_of_a_run_are_in_its_rates(file: str) -> None:
    async with hosting(file) as operations:
        operations._log.measure("run-1", 3.0, 10, 0)
        report = RunReport("memos", "run-1", RunStatus.COMPLETED, Tally(written=60, dead=2), 3.25)
        session = cast("Session", SimpleNamespace(reports={"memos": report}))
        for listener in operations._on_end:
            listener("memos", session)
    (rate,) = operations._log.of("run-1").rates
    assert rate[1:] == (50.0, 2.0)


@pytest.mark.parametrize("key", ["k1", None])
async def test_letters_of_records_delivered_elsewhere_close(file: str, key: str | None) -> None:
    letters = [
        DeadLetter("run-1", "memos", "load", f"k{n}", "load", "T", "m", {"id": f"r{n}"}) for n in (1, 2)
    ]
    async with hosting(file) as operations:
        store = operations._store()
        await store.put_dead_letters(letters)
        await operations.close([DeadRecord(Origin("memos", None, "load", key), "r1")])
        await operations.close([DeadRecord(Origin("memos", "run-1", "load", key))])
        open_first = len(await store.dead_letters(DeadLetterFilter(status="open")))
        await operations.close([DeadRecord(Origin("memos", "run-1", "load", key), "r1")])
        found = {one.key: one.status for one in await store.dead_letters(DeadLetterFilter())}
    assert (open_first, found) == (2 if key is None else 1, {"k1": "recovered", "k2": "open"})


async def test_letters_without_keys_are_looked_up_together(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[DeadLetterFilter] = []
    async with hosting(file) as operations:
        store = operations._store()
        letters = [
            DeadLetter("run-1", "memos", "load", f"k{n}", "load", "T", "m", {"id": f"r{n}"}) for n in range(3)
        ]
        await store.put_dead_letters(letters)
        search = store.dead_letters

        async def counted(where: DeadLetterFilter) -> list[DeadLetter]:
            looks.append(where)
            return await search(where)

        monkeypatch.setattr(store, "dead_letters", counted)
        origin = Origin("memos", "run-1", "load", None)
        await operations.close([DeadRecord(origin, "r1"), DeadRecord(origin, "r2"), DeadRecord(origin)])
        found = {one.key: one.status for one in await search(DeadLetterFilter())}
    assert (len(looks), found) == (1, {"k0": "open", "k1": "recovered", "k2": "recovered"})
