"""A record's history on the page: its source, run, model calls, and rows or dead letter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import cast

import httpx
import pytest

from engine.contract.journal import JournalEntry
from engine.service.app import create_app
from engine.service.models import IngestModel
from engine.service.operations import (
    DeadRecord,
    LetterView,
    LetterWhere,
    NodeView,
    Operations,
    RunDetail,
    RunView,
)
from engine.service.page import rendering
from engine.service.page.rendering import cell_text
from engine.service.warehouse import Warehouse
from tests.unit.service.test_page import csrf

EVIL = "<script>alert('x')</script>"
KEY = "lake/memo@one.txt@v1"
CALL = JournalEntry(
    "hash", '{"name": "Zoe"}', "answer", "gpt-5", 1_234, 56, 0.0123,
    record=KEY, run_id="run-1", node="extract", created_at="2026-11-23T08:00:00Z",
)  # fmt: skip
LETTER = LetterView(
    id="1-aa", pipeline="memos", node="load", key=KEY, run_id="run-1", stage="", error_type="InvalidFields",
    error_message="age: not a number", record='{"id": "row-1"}',
    first_failed_at="2026-11-23T08:00:00Z", last_failed_at="2026-11-23T08:00:00Z",
)  # fmt: skip
NODES = [
    NodeView("files", "source", "s3", ()),
    NodeView("extract", "transform", "llm_extract", ("files",), pays=True),
    NodeView("load", "sink", "ingest", ("extract",)),
    NodeView("aside", "transform", "llm_extract", ("files",), pays=True),
]


class Hosted:
    """What is known of runs, as a test says."""

    def __init__(self) -> None:
        self.paid: dict[str, list[JournalEntry]] = {}
        self.dead: list[LetterView] = []
        self.closed: list[tuple[str, str]] = []

    async def detail(self, run_id: str) -> RunDetail:
        run = RunView(run_id, "memos", "completed", datetime(2026, 1, 1, tzinfo=UTC), None, 1, 1, 0, 0)
        return RunDetail(run, NODES, {})

    async def letters(self, where: LetterWhere) -> list[LetterView]:
        return [replace(one, record=None) for one in self.dead if one.key == where.key][: where.limit]

    async def letter(self, letter_id: str) -> LetterView | None:
        return next((one for one in self.dead if one.id == letter_id), None)

    async def replay(self, letter_id: str, record: str | None, *, force: bool) -> str:
        return "run-2"

    async def discard(self, ids: Sequence[str], reason: str) -> int:
        return len(ids)

    async def close(self, records: Sequence[DeadRecord], reason: str = "") -> None:
        self.closed += [(one.id, reason) for one in records]

    async def calls(self, record: str, run_id: str) -> list[JournalEntry]:
        return self.paid.get(record, [])


@pytest.fixture
def hosted() -> Hosted:
    return Hosted()


@pytest.fixture
async def page(
    warehouse: Warehouse, models: tuple[IngestModel, ...], hosted: Hosted
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(warehouse, models, operations=cast("Operations", hosted))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1", headers={"Accept": "text/html"}
    ) as client:
        yield client


async def store(page: httpx.AsyncClient, path: str, name: str = "row-1") -> None:
    """A row that the node `load` of the run `run-1` has sent."""
    row = {"id": name, "source_file_path": path, "transform_timestamp": "2026-11-23T10:00:00Z"}
    headers = {"Idempotency-Key": "1", "X-ODW-Epoch": "run-1/load 1"}
    (await page.post("/ingest/UnstructuredData", json=[row], headers=headers)).raise_for_status()


async def shown(page: httpx.AsyncClient, name: str) -> str:
    answer = await page.get("/ui/records", params={"id": name})
    assert answer.status_code == 200
    return answer.text


@pytest.mark.slow
async def test_a_way_has_prompt_answer_tokens_and_price(page: httpx.AsyncClient, hosted: Hosted) -> None:
    traced = replace(CALL, prompt=f"[user] {EVIL}", reply=EVIL, answer=EVIL)
    hosted.paid["lake/memo@one.txt"] = [traced]
    await store(page, "s3://lake/memo@one.txt")
    text = await shown(page, "row-1")
    for part in ("[user] &lt;script&gt;", "gpt-5", "1,234 tokens in, 56 out", "$0.0123", "run-1"):
        assert part in text
    assert EVIL not in text
    assert "not kept" not in text
    assert "took it from the journal" not in text


@pytest.mark.slow
async def test_a_call_without_a_trace_says_how_to_keep_one(page: httpx.AsyncClient, hosted: Hosted) -> None:
    hosted.paid["lake/a.txt"] = [replace(CALL, run_id="run-0")]
    await store(page, "s3://lake/a.txt")
    text = await shown(page, "row-1")
    assert "Prompt and raw reply were not kept" in text
    assert "trace: true" in text
    assert "this run took it from the journal" in text


@pytest.mark.slow
async def test_a_way_without_a_call_says_so_once_a_node(page: httpx.AsyncClient) -> None:
    await store(page, "")
    text = await shown(page, "row-1")
    assert text.count("No call is recorded") == 1  # at `extract`, but not at `aside`, which is not on the way


@pytest.mark.slow
@pytest.mark.parametrize("name", ["row-1", KEY])
async def test_a_dead_letter_is_on_the_way_of_its_row(
    page: httpx.AsyncClient, hosted: Hosted, name: str
) -> None:
    hosted.dead = [LETTER]
    hosted.paid = {"lake/memo@one.txt": [CALL], KEY: [CALL]}
    await store(page, "s3://lake/memo@one.txt")
    text = await shown(page, name)
    assert "Row in" in text
    assert "Died at load" in text
    assert "age: not a number" in text
    assert text.count("Model call at extract") == 1
    assert text.count('class="drawing"') == 1


@pytest.mark.slow
async def test_a_key_leads_to_the_row_of_a_number(page: httpx.AsyncClient, hosted: Hosted) -> None:
    hosted.dead = [replace(LETTER, record='{"id": 7}')]
    await store(page, "s3://lake/memo@one.txt", "7")
    assert "Row in" in await shown(page, KEY)


@pytest.mark.slow
async def test_other_records_of_its_object_do_not_die_on_its_way(
    page: httpx.AsyncClient, hosted: Hosted
) -> None:
    others = [f"lake/memos.jsonl@v1#{number}" for number in range(2)]
    hosted.dead = [replace(LETTER, key=others[1], record=None)]
    hosted.paid = {"lake/memos.jsonl": [replace(CALL, record=key) for key in others]}
    await store(page, "s3://lake/memos.jsonl")
    text = await shown(page, "row-1")
    assert "Row in" in text
    assert "Died at" not in text
    assert all(key in text for key in others)  # each call says which record it was about


@pytest.mark.slow
async def test_a_key_without_a_row_leads_to_where_it_died(page: httpx.AsyncClient, hosted: Hosted) -> None:
    hosted.dead = [replace(LETTER, key="seed/7", record=None)]
    text = await shown(page, "seed/7")
    assert "Died at load" in text
    assert "Row in" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (["READ", None], '["READ", null]'),
        ({"a": Decimal("1.5")}, '{"a": "1.5"}'),
        (True, "true"),
        (None, None),
        ("x", "x"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
    ],
)
def test_cells_read_as_json(value: object, text: str | None) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize(("runs", "shown"), [(1, "/ui/runs/run-1"), (0, "No runs yet")])
def test_the_overview_lists_the_recent_runs(runs: int, shown: str) -> None:
    run = RunView("run-1", "memos", "completed", datetime(2026, 1, 1, tzinfo=UTC), None, 1, 1, 0, 0)
    recent = rendering._environment().get_template("parts/recent.html")
    assert shown in recent.render(base="", has_runs=True, runs=[run] * runs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "action", "status", "closed"),
    [
        ("service", "replay", "recovered", [("row-1", "")]),
        ("service", "discard", "discarded", [("row-1", "a test")]),
        ("engine", "replay", "recovered", []),
        ("engine", "discard", "discarded", []),
    ],
)
async def test_who_closes_one_letter_of_a_record_closes_both(
    page: httpx.AsyncClient,
    hosted: Hosted,
    store: str,
    action: str,
    status: str,
    closed: list[tuple[str, str]],
) -> None:
    headers = {"X-ODW-Results": "per-record", "X-ODW-Origin": "memos/run-1/load"}
    rows = [{"id": "row-1", "text": 5}, {"id": "row-2", "text": 5}]
    (await page.post("/ingest/NoteSource", json=rows, headers=headers)).raise_for_status()
    hosted.dead = [LETTER]
    letters = {one["record_id"]: one for one in (await page.get("/dead-letters")).json()["items"]}
    name = LETTER.id if store == "engine" else letters["row-1"]["dead_letter_id"]
    form = {"csrf": await csrf(page), "record": '{"id": "row-1", "text": "x"}', "reason": "a test"}
    assert (await page.post(f"/ui/letters/{store}/{name}/{action}", data=form)).status_code == 303
    letters = {one["record_id"]: one["status"] for one in (await page.get("/dead-letters")).json()["items"]}
    assert (letters, hosted.closed) == ({"row-1": status, "row-2": "open"}, closed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "record", "status"),
    [
        ("row-1", '{"id": "row-1", "x": NaN}', "discarded"),
        ("row-1", r'{"id": "\ud800"}', "open"),
        (0, '{"id": 0}', "discarded"),
    ],
    ids=["a value", "an id", "the id zero"],
)
async def test_a_letter_of_what_no_service_takes_is_closed(
    page: httpx.AsyncClient, hosted: Hosted, sent: object, record: str, status: str
) -> None:
    headers = {"X-ODW-Results": "per-record", "X-ODW-Origin": "memos/run-1/load"}
    rows = [{"id": sent, "text": 5}]
    (await page.post("/ingest/NoteSource", json=rows, headers=headers)).raise_for_status()
    hosted.dead = [replace(LETTER, record=record)]
    form = {"csrf": await csrf(page), "reason": "a test"}
    assert (await page.post(f"/ui/letters/engine/{LETTER.id}/discard", data=form)).status_code == 303
    assert [one["status"] for one in (await page.get("/dead-letters")).json()["items"]] == [status]
