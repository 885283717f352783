"""The index of ids: replays find every existing row, and read little of the table."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from engine.service import id_index
from engine.service.appending import append_tables
from engine.service.id_index import IdIndex, IdIndexes
from engine.service.models import IngestModel, Row
from engine.service.storage import Storage
from engine.service.submission import Delivery, Submission
from engine.service.tables import Table, tables_of
from engine.service.warehouse import Warehouse

Note = Callable[..., Row]
Models = tuple[IngestModel, ...]


class Rows:
    """The table Note, written to as the writer does, on its connection."""

    def __init__(self, storage: Storage, table: Table) -> None:
        self.connection = storage.cursor()
        self.table = table
        self.indexes = IdIndexes(self.connection, [table])

    def append(self, ids: list[str], sequence: int) -> None:
        count = len(ids)
        columns = {"id": ids, "text": ["text"] * count, "_seq": pa.array([sequence] * count, pa.int64())}
        append_tables(self.connection, '"Note"', [pa.table(columns)])

    def delete(self, identifier: str) -> None:
        self.connection.execute('DELETE FROM "Note" WHERE id = ?', [identifier])

    def find(self, *ids: str) -> set[int] | None:
        return self.indexes.sequences_of(self.table, ids)


@pytest.fixture
def rows(path: Path, models: Models) -> Iterator[Rows]:
    tables = tables_of(models)
    storage = Storage(path, tables.values(), "1GB")
    storage.open()
    yield Rows(storage, tables["Note"])
    storage.close()


@pytest.mark.slow
def test_index_knows_rows_from_before_and_after_it_was_built(rows: Rows) -> None:
    assert rows.find("a") == set()
    rows.append(["a", "b"], 1)
    rows.append(["c", "a"], 2)
    assert rows.find("a", "x") == {1, 2}
    assert rows.find("b") == {1}
    rows.indexes.forget()
    assert rows.find("a") == {1, 2}
    rows.append(["a"], 3)
    assert rows.find("a") == {1, 2, 3}
    assert rows.find("x") == set()


@pytest.mark.slow
def test_index_may_know_rows_that_are_gone(rows: Rows) -> None:
    rows.append(["a"], 1)
    assert rows.find("a") == {1}
    rows.delete("a")
    rows.append(["a"], 2)
    assert rows.find("a") == {1, 2}


@pytest.mark.slow
def test_index_is_rebuilt_when_much_was_added(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "MAX_RECENT", 3)
    assert rows.find("0-0") == set()
    for sequence in range(1, 9):
        rows.append([f"{sequence}-{place}" for place in range(sequence % 4)], sequence)
        if sequence % 2:
            assert rows.find(f"{sequence}-0", "1-0") == {sequence, 1}
    assert rows.find("3-2", "6-1", "8-0") == {3, 6}


@pytest.mark.slow
def test_index_misses_no_row_of_a_large_load(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "MAX_RECENT", 3)
    assert rows.find("0") == set()
    for sequence in range(1, 3):
        rows.append([str(number) for number in range(5)], sequence)
    assert [rows.find(str(number)) for number in range(5)] == [{1, 2}] * 5


@pytest.mark.slow
def test_index_is_bounded_when_one_id_comes_again(
    path: Path, models: Models, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[set[int] | None] = []
    ask = IdIndexes.sequences_of

    def asked(indexes: IdIndexes, table: Table, ids: list[str]) -> set[int] | None:
        answers.append(ask(indexes, table, ids))
        return answers[-1]

    monkeypatch.setattr(IdIndexes, "sequences_of", asked)
    warehouse = Warehouse.open(path, models)
    for step in range(9):
        sent = [note("hot", str(step))]
        table = warehouse.tables["Note"]
        warehouse.submit(Submission(model="Note", table=table, rows=sent, delivery="replay")).result()
    with warehouse.reading() as reader:
        found = reader.execute('SELECT id, text FROM "Note"').fetchall()
    warehouse.close()
    assert found == [("hot", "8")]
    assert [len(answer or ()) for answer in answers] == [0] + [1] * 8


@pytest.mark.slow
def test_an_index_that_cannot_be_built_stops_no_writes(
    path: Path, models: Models, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(index: IdIndex) -> bool:
        raise duckdb.OutOfMemoryException("could not allocate")

    monkeypatch.setattr(IdIndex, "_build", failing)
    warehouse = Warehouse.open(path, models)
    table, answers = warehouse.tables["Note"], []
    for step in range(3):
        sent = [note("a", str(step))]
        answers.append(warehouse.submit(Submission(model="Note", table=table, rows=sent, delivery="replay")))
    errors = [answer.exception() is not None for answer in answers]
    with warehouse.reading() as reader:
        found = reader.execute('SELECT id, text FROM "Note"').fetchall()
    warehouse.close()
    assert (errors[1:], found) == ([False, False], [("a", "2")])


@pytest.mark.slow
def test_a_table_that_is_too_large_has_no_index(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "MAX_ROWS", 2)
    rows.append(["a", "b", "c"], 1)
    assert rows.find("a") is None
    rows.delete("c")
    assert rows.find("a") == {1}


def test_without_pyarrow_there_is_no_index(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_index, "has_arrow", lambda: False)
    rows.append(["a"], 1)
    rows.indexes.forget()
    assert rows.find("a") is None


@pytest.mark.slow
def test_any_order_of_deliveries_leaves_what_was_sent_last(
    path: Path, models: Models, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(id_index, "MAX_RECENT", 8)
    draw = random.Random(5)
    deliveries: list[Delivery] = ["replay", "replay", "foreign", "fresh"]
    warehouse = Warehouse.open(path, models)
    expected: dict[str, str] = {}
    for step in range(24):
        delivery = draw.choice(deliveries)
        ids = draw.sample([f"id {number}" for number in range(12)], draw.randint(1, 4))
        if delivery == "fresh":
            ids = [f"new {step} {number}" for number in range(len(ids))]
        sent = [note(one, f"{step}", size=2**63 if step % 9 == 8 else 0) for one in ids]
        columns = pa.Table.from_pylist(sent, _schema(warehouse)) if step % 3 == 0 and step % 9 != 8 else None
        written = warehouse.submit(
            Submission(
                model="Note",
                table=warehouse.tables["Note"],
                rows=[] if columns is not None else sent,
                columns=columns,
                delivery=delivery,
            )
        )
        if written.exception() is None:
            expected |= dict.fromkeys(ids, f"{step}")
        if step == 13:
            warehouse.close()
            warehouse = Warehouse.open(path, models)
        elif step % 7 == 6:
            warehouse.compact()
    warehouse.compact()
    with warehouse.reading() as reader:
        found = reader.execute('SELECT id, text FROM "Note" ORDER BY id').fetchall()
    warehouse.close()
    assert found == sorted(expected.items())


def _schema(warehouse: Warehouse) -> pa.Schema:
    kinds = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "VARCHAR[]": pa.list_(pa.string())}
    return pa.schema([(column.name, kinds[column.sql_type]) for column in warehouse.tables["Note"].columns])
