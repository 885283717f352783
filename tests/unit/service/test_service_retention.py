"""Retention removes expired rows, in portions, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import orjson
import pytest

from engine.service import retention
from engine.service.accounts import account_of
from engine.service.app import create_app
from engine.service.commit import GroupCommit
from engine.service.dead_letter_format import letter_of
from engine.service.declared import DeclarationError, Declared
from engine.service.models import IngestModel, Row
from engine.service.retention import DEAD_LETTERS, Trimmer
from engine.service.settings import Keep, Retention, ServiceSettings
from engine.service.storage import Reader, Storage
from engine.service.submission import Epoch, RejectedRecord, Submission
from engine.service.tables import tables_of
from engine.service.warehouse import Warehouse
from tests.unit.service.old_formats import FORMAT_3

Models = tuple[IngestModel, ...]
DAY = 86_400.0


class Ledger:
    """A warehouse without a writer's thread: what is due happens when a test says so."""

    def __init__(self, path: Path, models: Models) -> None:
        self.models = models
        self.tables = tables_of(models)
        self.storage = Storage(path, self.tables.values(), "1GB")
        self.storage.open()
        self.connection = self.storage.cursor()
        self.commit = GroupCommit(self.connection, self.tables.values())

    def put(self, ids: str, *dead: str, age: float = 0.0) -> None:
        """Commit one request, made so many days ago."""
        rows: list[Row] = [
            {"id": one, "text": "t", "size": 0, "tags": [], "origin": None, "transform_timestamp": ""}
            for one in ids
        ]
        letters = [self.letter(one) for one in dead]
        work = Submission(
            model="Note",
            table=self.tables["Note"],
            rows=rows,
            letters=letters,
            key=f"{ids}{dead}",
            epoch=Epoch("run/load", 1),
        )
        self.commit.commit([self.commit.encode(work)])
        self.connection.execute(
            "DELETE FROM _odw_times WHERE noted_at > now() AT TIME ZONE 'UTC' - to_hours(1)"
        )
        self.connection.execute(
            "INSERT INTO _odw_times VALUES (?, now() AT TIME ZONE 'UTC' - to_seconds(?))",
            [self.sequence + 1, age * DAY],
        )

    @property
    def sequence(self) -> int:
        return int(self.value("SELECT max(sequence) FROM _odw_batches"))

    def letter(self, identifier: str) -> RejectedRecord:
        return letter_of(
            self.models[0],
            0,
            orjson.dumps({"id": identifier}),
            error_type="E",
            error_message="no",
            source="api",
            failed_at=datetime.now(UTC),
        )

    def close(self, identifier: str, age: float) -> None:
        self.connection.execute(
            "UPDATE _odw_dead_letters SET status = 'discarded', closed_at = now() AT TIME ZONE 'UTC' "
            "- to_seconds(?) WHERE record_id = ?",
            [age * DAY, identifier],
        )

    def trim(self, tables: dict[str, Keep] | None = None, letters: Keep | None = None) -> list[int]:
        """Take steps until there is nothing to do; what each removed."""
        trimmer = Trimmer(Retention(tables or {}, letters or Keep()), self.tables)
        steps: list[int] = []
        while not steps or steps[-1]:
            before = trimmer.removed.total()
            self.commit.trim(trimmer, 30)
            steps.append(trimmer.removed.total() - before)
        return steps[:-1]

    def value(self, sql: str) -> Any:
        return self.connection.execute(sql).fetchall()[0][0]

    def ids(self) -> str:
        return str(self.value("SELECT coalesce(string_agg(id, '' ORDER BY id), '') FROM Note"))

    def letters(self) -> str:
        sql = "SELECT coalesce(string_agg(record_id, '' ORDER BY record_id), '') FROM _odw_dead_letters"
        return str(self.value(sql))


@pytest.fixture
def ledger(path: Path, models: Models) -> Ledger:
    return Ledger(path, models)


@pytest.mark.slow
def test_rows_older_than_the_age_are_removed(ledger: Ledger) -> None:
    ledger.put("ab", age=9)
    ledger.put("c", age=6)
    ledger.put("d", age=1)
    ledger.put("e")
    assert ledger.trim({"Note": Keep(seconds=7 * DAY)}) == [2]
    assert ledger.ids() == "cde"
    assert ledger.trim({"Note": Keep(seconds=0.5 * DAY)}) == [2]
    assert ledger.ids() == "e"


@pytest.mark.slow
def test_last_rows_grow_old_although_nothing_follows_them(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "MARK_EVERY", 0.0)
    ledger.put("a")
    ledger.connection.execute("DELETE FROM _odw_times")
    assert ledger.trim({"Note": Keep(seconds=7 * DAY)}) == []
    ledger.put("b")
    ledger.connection.execute("DELETE FROM _odw_times WHERE sequence = 3")
    assert ledger.trim({"Note": Keep(seconds=7 * DAY)}) == []
    ledger.connection.execute("UPDATE _odw_times SET noted_at = noted_at - to_days(8)")
    assert ledger.trim({"Note": Keep(seconds=7 * DAY)}) == [2]
    assert ledger.ids() == ""


@pytest.mark.slow
def test_rows_are_new_after_all_older_ones_are_gone_and_a_restart(path: Path, models: Models) -> None:
    before = Ledger(path, models)
    for ids in ("ab", "cd", "ef"):
        before.put(ids, age=9)
    assert before.trim({"Note": Keep(seconds=7 * DAY)}) == [6]
    before.connection.execute("DELETE FROM _odw_batches")  # forgotten, or of requests without a key
    before.connection.close()
    before.storage.close()
    ledger = Ledger(path, models)
    ledger.put("g")
    assert ledger.trim({"Note": Keep(seconds=7 * DAY)}) == []
    assert ledger.ids() == "g"


@pytest.mark.slow
def test_newest_rows_are_kept_in_whole_requests(ledger: Ledger) -> None:
    for ids in ("ab", "cd", "ef"):
        ledger.put(ids)
    assert ledger.trim({"Note": Keep(rows=3)}) == [2]
    assert ledger.ids() == "cdef"
    assert ledger.trim({"Note": Keep(rows=4)}) == []


@pytest.mark.slow
def test_duplicates_do_not_count_as_rows(ledger: Ledger) -> None:
    for ids in ("abc", "ab", "a"):
        ledger.put(ids)
    assert ledger.trim({"Note": Keep(rows=3)}) == []
    assert ledger.ids() == "abc"


@pytest.mark.slow
def test_duplicates_that_come_during_a_pass_do_not_count(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PORTION", 1)
    for one in "abcdefgh":
        ledger.put(one)
    trimmer = Trimmer(Retention({"Note": Keep(rows=6)}), ledger.tables)
    ledger.commit.trim(trimmer, 30)
    ledger.put("gh")
    while not trimmer.begins:
        ledger.commit.trim(trimmer, 30)
    ledger.commit.compact(30)
    assert ledger.ids() == "cdefgh"
    account = account_of(Reader(ledger.connection), "Note", ledger.tables["Note"], "run/load")
    assert (account.acknowledged, account.present, account.replaced, account.overtaken) == (10, 6, 2, 2)


@pytest.mark.slow
def test_a_step_removes_a_portion(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PORTION", 4)
    for ids in ("ab", "cd", "efghij", "k", "l"):
        ledger.put(ids, age=9)
    ledger.put("m")
    assert ledger.trim({"Note": Keep(seconds=DAY)}) == [4, 6, 2]
    assert ledger.ids() == "m"


@pytest.mark.slow
def test_closed_dead_letters_are_removed_and_open_ones_kept(ledger: Ledger) -> None:
    ledger.put("", "p", "q", "r", "s")
    for identifier, age in (("p", 9), ("q", 2), ("r", 1)):
        ledger.close(identifier, age)
    assert ledger.trim(letters=Keep(seconds=7 * DAY)) == [1]
    assert ledger.letters() == "qrs"
    assert ledger.trim(letters=Keep(rows=1)) == [1]
    assert ledger.letters() == "rs"
    assert ledger.trim(letters=Keep(seconds=0, rows=1)) == [1]
    assert ledger.letters() == "s"


@pytest.mark.slow
def test_what_was_removed_still_counts_as_delivered(ledger: Ledger) -> None:
    ledger.put("abc", "x", age=9)
    ledger.put("d")
    ledger.close("x", 9)
    ledger.trim({"Note": Keep(seconds=DAY)}, Keep(seconds=DAY))
    account = account_of(Reader(ledger.connection), "Note", ledger.tables["Note"], "run/load")
    assert (account.acknowledged, account.present, account.overtaken) == (4, 1, 3)
    assert (account.dead, account.letters) == (1, 1)


@pytest.mark.slow
def test_an_older_warehouse_knows_the_age_of_requests_with_a_key(path: Path, models: Models) -> None:
    older = Ledger(path, models)
    for ids in ("a", "b"):
        older.put(ids)
    older.connection.execute("UPDATE _odw_batches SET committed_at = committed_at - to_days(9)")
    for statement in (*FORMAT_3, "DROP TABLE _odw_times", "DROP TABLE _odw_removed_letters"):
        older.connection.execute(statement)
    older.connection.close()
    older.storage.close()
    ledger = Ledger(path, models)
    ledger.put("c", age=1)
    assert ledger.trim({"Note": Keep(seconds=7 * DAY)}) == [2]


@pytest.mark.slow
async def test_a_service_removes_while_it_runs_and_reports_it(
    path: Path, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    def client(warehouse: Warehouse) -> httpx.AsyncClient:
        app = create_app(warehouse, models)
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")

    warehouse = Warehouse.open(path, models)
    for ids in ("ab", "cd"):
        async with client(warehouse) as http:
            await http.post("/ingest/NoteSource", json=[{"id": one, "text": "t"} for one in ids])
    assert "odw_rows_removed_total{" not in (await client(warehouse).get("/metrics")).text
    warehouse.close()

    caplog.set_level("INFO", retention.__name__)
    settings = ServiceSettings(retention=Retention({"Note": Keep(rows=2)}))
    warehouse = Warehouse.open(path, models, settings)
    with anyio.fail_after(300):
        while "retention removed 2 rows of Note" not in caplog.text:  # noqa: ASYNC110 -- a thread logs it
            await anyio.sleep(0.01)
    assert 'odw_rows_removed_total{table="Note"} 2' in (await client(warehouse).get("/metrics")).text
    warehouse.close()


@pytest.mark.slow
async def test_a_removal_that_fails_is_logged_and_writing_continues(
    path: Path, models: Models, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(trimmer: Trimmer, connection: object) -> None:
        raise ValueError("a bug, or a row that says too much")

    monkeypatch.setattr(Trimmer, "step", broken)
    settings = ServiceSettings(retention=Retention({"Note": Keep(rows=2)}))
    warehouse = Warehouse.open(path, models, settings)
    with anyio.fail_after(300):
        while "retention failed and will be retried: ValueError" not in caplog.text:  # noqa: ASYNC110 -- a log
            await anyio.sleep(0.01)
    app = create_app(warehouse, models)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        answer = await http.post("/ingest/NoteSource", json=[{"id": "a", "text": "t"}])
    assert answer.status_code == 200
    warehouse.close()


def test_a_declared_retention_uses_the_tables_own_names() -> None:
    kept = {"tables": {"log": {"age": "30d"}, "Reading": {"rows": 5}}, "dead_letters": {"age": "1h"}}
    models = {"Reading": {"fields": {"id": "str"}}}
    declared = Declared({"models": models, "retention": kept}, "")
    assert declared.retention() == Retention(
        {"Log": Keep(30 * DAY), "Reading": Keep(rows=5)}, Keep(seconds=3600.0)
    )
    assert Declared({"models": models}, "").retention().is_set is False
    assert Trimmer(declared.retention(), {}).removed == {}
    with pytest.raises(DeclarationError, match=r"no model fills a table `Lag`: expected .*, Log, ") as caught:
        Declared({"retention": {"tables": {"Lag": {}}}}, "").retention()
    assert caught.value.path == ("retention", "tables", "Lag")
    assert DEAD_LETTERS not in declared.retention().tables
