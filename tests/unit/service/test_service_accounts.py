"""Counts of a client's deliveries: rows by the scope that wrote them, and replaced rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from connectors.ingest.counting import Account as Reported
from connectors.ingest.counting import _compared
from engine.contract.verification import Delivered
from engine.service.accounts import Account, account_of
from engine.service.app import create_app
from engine.service.dead_letter_format import letter_of
from engine.service.models import IngestModel, Row
from engine.service.settings import ServiceSettings
from engine.service.storage import Storage
from engine.service.submission import Delivery, Epoch, RejectedRecord, Submission, WarehouseDownError
from engine.service.tables import tables_of
from engine.service.warehouse import Warehouse
from engine.service.writer import Writer
from tests.unit.service.old_formats import FORMAT_1

Note = Callable[..., Row]
Models = tuple[IngestModel, ...]


class Client:
    """Delivers to the table Note under a scope, and asks what is there of it."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.sent = 0

    def submission(
        self,
        rows: list[Row],
        scope: str | None,
        delivery: Delivery = "fresh",
        *,
        key: str = "",
        letters: list[RejectedRecord] | None = None,
    ) -> Submission:
        self.sent += 1
        return Submission(
            model="Note",
            table=self.warehouse.tables["Note"],
            rows=rows,
            delivery=delivery,
            key=key or f"key-{self.sent}",
            letters=letters or [],
            epoch=Epoch(scope, 1) if scope is not None else None,
        )

    def put(self, *arguments: Any, **options: Any) -> None:
        self.warehouse.submit(self.submission(*arguments, **options)).result()

    def account(self, scope: str) -> Account:
        with self.warehouse.reading() as reader:
            return account_of(reader, "Note", self.warehouse.tables["Note"], scope)

    def counts(self, scope: str) -> tuple[int, int, int, int, int]:
        found = self.account(scope)
        return found.acknowledged, found.present, found.replaced, found.overtaken, found.doubled


@pytest.fixture
def client_of_note(warehouse: Warehouse) -> Client:
    return Client(warehouse)


@pytest.fixture
def notes(note: Note) -> Callable[[str], list[Row]]:
    """`notes("abc")`: three rows with these ids."""
    return lambda ids: [note(identifier) for identifier in ids]


Notes = Callable[[str], list[Row]]


def letter_of_note(identifier: str) -> RejectedRecord:
    return letter_of(
        IngestModel("Note", Row, "Note"),  # type: ignore[arg-type]
        0,
        orjson.dumps({"id": identifier}),
        error_type="ValueError",
        error_message="no",
        source="transform",
        failed_at=datetime(2026, 11, 23, tzinfo=UTC),
    )


@pytest.mark.slow
def test_rows_are_counted_under_the_scope_that_brought_them(client_of_note: Client, notes: Notes) -> None:
    client_of_note.put(notes("abc"), "run/load")
    client_of_note.put(notes("de"), "other/load")
    client_of_note.put(notes("f"), None)

    assert client_of_note.counts("run/load") == (3, 3, 0, 0, 0)
    assert client_of_note.counts("other/load") == (2, 2, 0, 0, 0)
    assert client_of_note.counts("run") == (3, 3, 0, 0, 0)
    assert client_of_note.counts("ru") == (0, 0, 0, 0, 0)


@pytest.mark.slow
def test_a_redelivery_is_there_once(client_of_note: Client, notes: Notes) -> None:
    client_of_note.put(notes("abc"), "run/load")
    client_of_note.put(notes("bcd"), "run/load", "replay")

    assert client_of_note.counts("run/load") == (6, 4, 2, 0, 0)


@pytest.mark.slow
def test_late_rows_that_came_again_count_as_replaced(client_of_note: Client, notes: Notes) -> None:
    late = client_of_note.submission(notes("ab"), "run/load")
    again = client_of_note.submission(notes("ab"), "run/load", "replay")
    again.epoch = Epoch("run/load", 2)
    for one in (again, late):
        client_of_note.warehouse.submit(one).result()

    assert client_of_note.counts("run/load") == (4, 2, 2, 0, 0)


@pytest.mark.slow
def test_what_a_scope_takes_back_from_another_is_reported(client_of_note: Client, notes: Notes) -> None:
    client_of_note.put(notes("abc"), "run/load")
    client_of_note.put(notes("ab"), "other/load", "replay")
    client_of_note.put(notes("ad"), "run/load", "replay")  # other batches than before

    account = client_of_note.account("run/load")
    assert (account.present, account.overtaken, account.taken) == (3, 2, 1)
    reported = Reported(**asdict(account), remembered_days=30)
    checks = _compared(reported, Delivered(4, 4, unique=True))
    assert all(check.passed for check in checks)
    assert "1 were sent again after another run had replaced them" in checks[0].note
    assert not _compared(reported, Delivered(6, 6, unique=True))[0].passed


@pytest.mark.slow
def test_the_same_request_again_is_not_counted_again(client_of_note: Client, notes: Notes) -> None:
    for _ in range(2):
        client_of_note.put(notes("abc"), "run/load", key="same")

    assert client_of_note.counts("run/load") == (3, 3, 0, 0, 0)


@pytest.mark.slow
def test_rows_that_others_have_replaced_are_told_apart_from_lost_ones(
    client_of_note: Client, notes: Notes
) -> None:
    client_of_note.put(notes("abc"), "run/load")
    client_of_note.put(notes("a"), "other/load", "replay")
    client_of_note.put(notes("b"), None, "replay")

    assert client_of_note.counts("run/load") == (3, 1, 0, 2, 0)


@pytest.mark.slow
def test_one_id_twice_in_a_request_counts_as_replaced(client_of_note: Client, notes: Notes) -> None:
    client_of_note.put(notes("aab"), "run/load")

    assert client_of_note.counts("run/load") == (3, 2, 1, 0, 0)


@pytest.mark.slow
def test_within_a_group_each_request_counts_for_its_scope(path: Path, models: Models, notes: Notes) -> None:
    tables, settings = tables_of(models), ServiceSettings()
    storage = Storage(path, tables.values(), settings.memory_limit)
    storage.open()
    writer = Writer(storage.cursor, storage.reopen, tables.values(), settings)
    client = Client(Warehouse(storage, writer, tables))
    work = [("abc", "run/load"), ("c", "run/load"), ("a", "other/load")]
    futures = [client.warehouse.submit(client.submission(notes(ids), scope, "replay")) for ids, scope in work]
    writer.start()
    for future in futures:
        future.result()

    assert client.counts("run/load") == (4, 2, 1, 1, 0)
    assert client.counts("other/load") == (1, 1, 0, 0, 0)
    client.warehouse.close()


@pytest.mark.slow
def test_a_compaction_notes_what_it_removes(client_of_note: Client, notes: Notes) -> None:
    client_of_note.put(notes("abc"), "run/load")
    client_of_note.put(notes("a"), None, "foreign")
    client_of_note.put(notes("b"), "run/load", "foreign")
    client_of_note.warehouse.compact()

    assert client_of_note.counts("run/load") == (4, 2, 1, 1, 0)


@pytest.mark.slow
def test_ids_that_are_there_twice_are_noticed(client_of_note: Client, notes: Notes) -> None:
    client_of_note.put(notes("abc"), "run/load")
    client_of_note.put(notes("a"), "other/load")
    client_of_note.put(notes("b"), "run/load")

    assert client_of_note.counts("run/load") == (4, 4, 0, 0, 3)
    assert client_of_note.counts("other/load") == (1, 1, 0, 0, 1)


@pytest.mark.slow
def test_lost_rows_show_as_a_gap_in_the_account(client_of_note: Client, notes: Notes) -> None:
    client_of_note.put(notes("abc"), "run/load")
    client_of_note.warehouse.storage.cursor().execute("DELETE FROM \"Note\" WHERE id = 'b'")

    assert client_of_note.counts("run/load") == (3, 2, 0, 0, 0)


@pytest.mark.slow
def test_parts_of_a_run_are_counted_together_and_each_alone(client_of_note: Client, notes: Notes) -> None:
    client_of_note.put(notes("ab"), "run/load/1")
    client_of_note.put(notes("cd"), "run/load/2")
    client_of_note.put(notes("bc"), "run/load", "replay")
    client_of_note.put(notes("e"), "run/loader")

    assert client_of_note.counts("run/load") == (6, 4, 2, 0, 0)
    assert client_of_note.counts("run/load/1") == (2, 1, 0, 1, 0)


@pytest.mark.slow
def test_dead_letters_of_a_scope_are_counted_once_each(client_of_note: Client) -> None:
    client_of_note.put([], "run/load", letters=[letter_of_note("a"), letter_of_note("b")])
    client_of_note.put([], "run/load", letters=[letter_of_note("b")])
    client_of_note.put([], "other/load", letters=[letter_of_note("c")])
    found = client_of_note.account("run/load")
    assert (found.dead, found.letters) == (2, 2)

    client_of_note.warehouse.storage.cursor().execute("DELETE FROM _odw_dead_letters WHERE record_id = 'a'")
    found = client_of_note.account("run/load")
    assert (found.dead, found.letters) == (2, 1)


@pytest.mark.slow
def test_a_request_without_rows_keeps_its_number_over_a_restart(
    path: Path, models: Models, notes: Notes
) -> None:
    client = Client(Warehouse.open(path, models))
    client.put([], "run/load", letters=[letter_of_note("a")])
    client.warehouse.close()
    client = Client(Warehouse.open(path, models))
    client.put(notes("bc"), "other/load", key="another")

    assert client.counts("run/load") == (0, 0, 0, 0, 0)
    assert client.counts("other/load") == (2, 2, 0, 0, 0)
    client.warehouse.close()


@pytest.mark.slow
def test_a_warehouse_of_the_first_format_says_since_when_it_counts(
    path: Path, models: Models, notes: Notes
) -> None:
    import duckdb

    client = Client(Warehouse.open(path, models))
    client.put(notes("ab"), "run/load", key="old")
    assert client.account("run/load").since is None
    client.warehouse.close()
    with duckdb.connect(str(path)) as connection:
        for statement in FORMAT_1:
            connection.execute(statement)

    for _ in range(2):  # the second time there is nothing to change
        client = Client(Warehouse.open(path, models))
        client.put(notes("ab"), "run/load", key="old")  # still known
        client.put(notes("c"), "run/load", key="new")
        assert client.counts("run/load") == (1, 1, 0, 0, 0)
        assert client.account("run/load").since is not None
        client.warehouse.close()


HEADERS = {"X-ODW-Results": "per-record", "X-ODW-Epoch": "run/load 1"}
WHERE = {"model": "notesource", "scope": "run/load"}


class TestRoute:
    @pytest.mark.slow
    async def test_counts_are_answered_also_of_a_table_that_was_dirty(
        self, client: httpx.AsyncClient
    ) -> None:
        good, bad = {"id": "a", "text": "x"}, {"id": "b", "text": "[DLQ]"}
        for key in ("1", "2"):
            headers = HEADERS | {"Idempotency-Key": key}
            await client.post("/ingest/NoteSource", json=[good, bad], headers=headers)

        answer = await client.get("/deliveries", params=WHERE)
        assert (answer.status_code, answer.json()) == (
            200,
            {
                "acknowledged": 2,
                "present": 1,
                "replaced": 1,
                "overtaken": 0,
                "taken": 0,
                "doubled": 0,
                "dead": 1,
                "letters": 1,
                "since": None,
                "remembered_days": 30,
            },
        )

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "where", [{}, {"model": "None"}, {"scope": "run/load"}, {"model": "None", "scope": "run/load"}]
    )
    async def test_what_is_not_asked_for_properly_is_400(
        self, client: httpx.AsyncClient, where: dict[str, str]
    ) -> None:
        answer = await client.get("/deliveries", params=where)
        assert (answer.status_code, answer.text) == (400, "model must be a served model")

    @pytest.mark.slow
    async def test_the_newest_delivery_keeps_older_ones_from_its_place(
        self, client: httpx.AsyncClient
    ) -> None:
        async def post(text: str, **headers: str) -> None:
            await client.post("/ingest/NoteSource", json={"id": "a", "text": text}, headers=headers)

        before = (await client.get("/deliveries", params={"model": "NoteSource"})).json()
        assert before == {"newest": 0}
        await post("newer")
        await post("older", **{"X-ODW-Delivery": "replay", "X-ODW-Unless-Newer": str(before["newest"])})
        assert (await client.get("/deliveries", params={"model": "NoteSource"})).json() == {"newest": 1}
        rows = (await client.get("/consumption/getNote")).json()["items"]
        assert [row["text"] for row in rows] == ["newer"]

    @pytest.mark.slow
    async def test_other_methods_are_refused(self, client: httpx.AsyncClient) -> None:
        assert (await client.post("/deliveries")).status_code == 405

    @pytest.mark.slow
    async def test_the_ingest_key_guards_it(self, warehouse: Warehouse, models: Models) -> None:
        from engine.service.auth import hash_of

        settings = ServiceSettings(ingest_api_key=hash_of("5ecret.5a17"), consumption_api_key="0" * 40)
        transport = httpx.ASGITransport(app=create_app(warehouse, models, settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            assert (await client.get("/deliveries", params=WHERE)).status_code == 401
            headers = {"Authorization": "Bearer 5ecret.5a17"}
            answer = await client.get("/deliveries", params=WHERE, headers=headers)
            assert answer.status_code == 200

    @pytest.mark.slow
    async def test_a_table_that_cannot_be_cleaned_is_503(
        self, client: httpx.AsyncClient, warehouse: Warehouse
    ) -> None:
        await client.post("/ingest/NoteSource", json=[{"id": "a", "text": "x"}])
        await asyncio.to_thread(warehouse.writer.stop)

        answer = await client.get("/deliveries", params=WHERE)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.text == "Error: the warehouse is closing"


def test_a_closed_warehouse_is_not_compacted(warehouse: Warehouse) -> None:
    warehouse.close()
    with pytest.raises(WarehouseDownError):
        warehouse.compact()
