"""Delivery semantics: fresh, replay, foreign; dead letters; restarts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from pydantic import create_model

from engine.service import system_tables
from engine.service.commit import Encoded, GroupCommit
from engine.service.dead_letter_format import letter_of
from engine.service.models import IngestModel, Row
from engine.service.settings import ServiceSettings
from engine.service.storage import Storage
from engine.service.submission import (
    Delivery,
    Epoch,
    QueueFullError,
    Receipt,
    RejectedRecord,
    Submission,
    WarehouseDownError,
    WriteFailedError,
)
from engine.service.tables import tables_of
from engine.service.warehouse import Warehouse
from engine.service.writer import Writer

Note = Callable[..., Row]
Models = tuple[IngestModel, ...]


class Desk:
    """A warehouse with the few questions that these tests ask."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.table = warehouse.tables["Note"]

    def submission(
        self,
        rows: list[Row],
        delivery: Delivery = "foreign",
        key: str | None = None,
        letters: list[RejectedRecord] | None = None,
        epoch: Epoch | None = None,
    ) -> Submission:
        return Submission(
            model="Note",
            table=self.table,
            rows=rows,
            delivery=delivery,
            key=key,
            letters=letters or [],
            epoch=epoch,
        )

    def put(
        self,
        rows: list[Row],
        delivery: Delivery = "foreign",
        key: str | None = None,
        epoch: Epoch | None = None,
    ) -> Receipt:
        return self.warehouse.submit(self.submission(rows, delivery, key, epoch=epoch)).result()

    def stored(self) -> int:
        with self.warehouse.reading() as reader:
            return reader.execute('SELECT count(*) FROM "Note"').fetchall()[0][0]

    def texts(self) -> dict[str, str]:
        with self.warehouse.reading() as reader:
            rows = reader.execute(f"SELECT id, text FROM {reader.rows_of(self.table)}").fetchall()
        assert len(rows) == len({identifier for identifier, _ in rows})
        return dict(rows)

    def is_dirty(self) -> bool:
        with self.warehouse.reading() as reader:
            return "QUALIFY" in reader.rows_of(self.table)

    def letters(self) -> dict[str, str]:
        with self.warehouse.reading() as reader:
            return dict(reader.execute("SELECT record_id, status FROM _odw_dead_letters").fetchall())


@pytest.fixture
def desk(warehouse: Warehouse) -> Desk:
    return Desk(warehouse)


@pytest.fixture
def idle(path: Path, models: Models) -> tuple[Desk, Writer]:
    """A warehouse whose writer has not started: what is submitted forms one group when it does."""
    tables = tables_of(models)
    settings = ServiceSettings(max_queued_requests=4)
    storage = Storage(path, tables.values(), settings.memory_limit)
    storage.open()
    writer = Writer(storage.cursor, storage.reopen, tables.values(), settings)
    return Desk(Warehouse(storage, writer, tables)), writer


def letter(model: IngestModel, identifier: str, text: str = "bad") -> RejectedRecord:
    return letter_of(
        model,
        0,
        orjson.dumps({"id": identifier, "text": text}),
        error_type="ValueError",
        error_message="no",
        source="transform",
        failed_at=datetime(2026, 11, 23, tzinfo=UTC),
    )


def test_fresh_rows_only_append_and_leave_the_table_clean(desk: Desk, note: Note) -> None:
    assert desk.put([note("a"), note("b")], "fresh").written == 2
    assert desk.texts() == {"a": "text", "b": "text"}
    assert not desk.is_dirty()


@pytest.mark.slow
def test_a_replay_replaces_its_keys(desk: Desk, note: Note) -> None:
    desk.put([note("a", "old"), note("b", "old")], "fresh")
    desk.put([note("b", "new"), note("c", "new")], "replay")
    assert desk.texts() == {"a": "old", "b": "new", "c": "new"}
    assert desk.stored() == 3
    assert not desk.is_dirty()


@pytest.mark.slow
def test_foreign_rows_make_the_table_dirty_and_the_last_commit_wins(desk: Desk, note: Note) -> None:
    desk.put([note("a", "1"), note("b", "1")])
    desk.put([note("a", "2")])
    desk.put([note("a", "3")])
    assert desk.is_dirty()
    assert desk.stored() == 4
    assert desk.texts() == {"a": "3", "b": "1"}


@pytest.mark.slow
def test_compaction_keeps_the_newest_rows_and_clears_the_mark(desk: Desk, note: Note) -> None:
    for text in ("1", "2", "3"):
        desk.put([note("a", text), note(f"only-{text}")])
    before = desk.texts()
    desk.warehouse.compact()
    assert desk.texts() == before
    assert before["a"] == "3"
    assert desk.stored() == 4
    assert not desk.is_dirty()


@pytest.mark.slow
def test_a_dirty_table_is_compacted_when_idle(
    path: Path, models: Models, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    compacted = threading.Event()
    compact = GroupCommit.compact

    def watched(self: GroupCommit, ledger_days: int) -> None:
        was_dirty = bool(self.dirty)
        compact(self, ledger_days)
        if was_dirty:
            compacted.set()

    monkeypatch.setattr(GroupCommit, "compact", watched)
    desk = Desk(Warehouse.open(path, models, ServiceSettings(compact_after=0.0)))
    desk.put([note("a", "1"), note("b", "1")])
    assert compacted.wait(300)
    assert desk.texts() == {"a": "1", "b": "1"}
    assert not desk.is_dirty()
    desk.warehouse.close()


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["fresh", "replay", "foreign"])
def test_of_one_id_twice_in_a_request_the_last_wins(desk: Desk, note: Note, delivery: Delivery) -> None:
    desk.put([note("a", "1"), note("b", "1"), note("a", "2")], delivery)
    assert desk.texts() == {"a": "2", "b": "1"}
    assert desk.stored() == 2


@pytest.mark.slow
def test_of_one_id_twice_in_a_group_the_last_wins(idle: tuple[Desk, Writer], note: Note) -> None:
    desk, writer = idle
    futures = [
        desk.warehouse.submit(desk.submission([note("a", text)], delivery))  # type: ignore[arg-type]
        for text, delivery in (("1", "fresh"), ("2", "replay"), ("3", "foreign"))
    ]
    writer.start()
    assert [future.result().written for future in futures] == [1, 1, 1]
    assert desk.texts() == {"a": "3"}
    assert desk.stored() == 1
    desk.warehouse.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "bad", [{"size": 2**63}, {"size": "no number"}, {"text": {"no", "text"}, "tags": 5}, {"tags": object()}]
)
def test_a_bad_request_does_not_fail_the_others_of_its_group(
    idle: tuple[Desk, Writer], note: Note, bad: Row
) -> None:
    desk, writer = idle
    first = desk.warehouse.submit(desk.submission([note("a")], "fresh"))
    wrong = desk.warehouse.submit(desk.submission([note("x"), note("y", **bad)], "fresh"))
    lacking = desk.warehouse.submit(desk.submission([{"id": "z"}], "fresh"))
    last = desk.warehouse.submit(desk.submission([note("b")], "fresh"))
    writer.start()
    assert (first.result().written, last.result().written) == (1, 1)
    for failed in (wrong, lacking):
        assert isinstance(failed.exception(), WriteFailedError)
    assert set(desk.texts()) == {"a", "b"}
    assert desk.warehouse.problem is None
    desk.warehouse.close()


@pytest.mark.slow
def test_a_key_is_written_once_and_answered_alike(desk: Desk, note: Note) -> None:
    assert desk.put([note("a")], "fresh", "key") == Receipt(1)
    assert desk.put([note("a")], "fresh", "key") == Receipt(1, duplicate=True)
    assert desk.stored() == 1


@pytest.mark.slow
@pytest.mark.parametrize("held", [0, 2, 3])
def test_a_key_is_known_however_many_are_held_in_memory(
    path: Path, models: Models, note: Note, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_tables, "MAX_KNOWN_KEYS", held)
    for is_duplicate in (False, True):
        desk = Desk(Warehouse.open(path, models))
        answers = [desk.put([note(key)], "fresh", key).duplicate for key in ("1", "2", "3", "2")]
        assert answers == [is_duplicate] * 3 + [True]
        desk.warehouse.close()


@pytest.mark.slow
def test_a_key_still_in_the_queue_is_not_written_twice(idle: tuple[Desk, Writer], note: Note) -> None:
    desk, writer = idle
    first = desk.warehouse.submit(desk.submission([note("a")], "fresh", "key"))
    second = desk.warehouse.submit(desk.submission([note("a")], "fresh", "key"))
    writer.start()
    assert (first.result(), second.result()) == (Receipt(1), Receipt(1, duplicate=True))
    assert desk.stored() == 1
    desk.warehouse.close()


def test_a_key_that_failed_may_be_tried_again(desk: Desk, note: Note) -> None:
    failed = desk.warehouse.submit(desk.submission([note("a", size=2**63)], "fresh", "key"))
    assert isinstance(failed.exception(), WriteFailedError)
    assert desk.put([note("a")], "fresh", "key") == Receipt(1)


@pytest.mark.slow
def test_a_full_queue_refuses_and_a_closed_one_too(idle: tuple[Desk, Writer], note: Note) -> None:
    desk, writer = idle
    futures = [desk.warehouse.submit(desk.submission([note(str(n))], "fresh")) for n in range(4)]
    assert desk.warehouse.writer.is_full
    with pytest.raises(QueueFullError):
        desk.put([note("more")])
    writer.start()
    desk.warehouse.close()
    assert [future.result().written for future in futures] == [1, 1, 1, 1]
    with pytest.raises(WarehouseDownError):
        desk.put([note("late")])


@pytest.mark.slow
def test_a_restart_keeps_rows_marks_keys_and_order(path: Path, models: Models, note: Note) -> None:
    desk = Desk(Warehouse.open(path, models))
    for _ in range(4):
        desk.put([note("b", "1")], "replay")
    desk.put([note("a", "1")], "foreign", "key")
    desk.warehouse.close()
    desk = Desk(Warehouse.open(path, models))
    assert desk.put([note("a", "other")], "foreign", "key").duplicate
    desk.put([note("a", "2")])
    assert desk.texts() == {"a": "2", "b": "1"}
    desk.warehouse.close()


@pytest.mark.slow
def test_a_row_recovers_the_letter_of_its_record(desk: Desk, models: Models, note: Note) -> None:
    letters = [letter(models[0], "a"), letter(models[0], "b")]
    desk.warehouse.submit(desk.submission([], letters=letters)).result()
    assert desk.letters() == {"a": "open", "b": "open"}
    desk.put([note("a")], "replay")
    assert desk.letters() == {"a": "recovered", "b": "open"}


@pytest.mark.slow
def test_the_same_letter_again_is_one_letter(desk: Desk, models: Models) -> None:
    for _ in range(2):
        desk.warehouse.submit(desk.submission([], letters=[letter(models[0], "a")] * 2)).result()
    assert desk.letters() == {"a": "open"}


@pytest.mark.slow
def test_a_recovered_letter_stays_so_unless_the_record_is_another(
    desk: Desk, models: Models, note: Note
) -> None:
    def redeliver(text: str) -> None:
        desk.warehouse.submit(desk.submission([], letters=[letter(models[0], "a", text)])).result()

    redeliver("bad")
    desk.put([note("a")], "replay")
    redeliver("bad")
    assert desk.letters() == {"a": "recovered"}
    redeliver("bad in another way")
    assert desk.letters() == {"a": "open"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("models", "kind"),
    [((IngestModel("Note", create_model("Note", id=kind, text=str), "Note"),), kind) for kind in (str, int)],
    ids=["texts", "numbers"],
)
def test_within_a_group_only_a_later_row_recovers(
    idle: tuple[Desk, Writer], models: Models, note: Note, kind: type
) -> None:
    desk, writer = idle
    desk.warehouse.submit(desk.submission([note(kind("1"))], "fresh"))
    desk.warehouse.submit(desk.submission([], letters=[letter(models[0], "1"), letter(models[0], "2")]))
    last = desk.warehouse.submit(desk.submission([note(kind("2"))], "fresh"))
    writer.start()
    last.result()
    assert desk.letters() == {"1": "open", "2": "recovered"}
    desk.warehouse.close()


@pytest.mark.slow
def test_readers_see_one_state_while_rows_are_written(desk: Desk, note: Note) -> None:
    desk.put([note("a", "1")], "fresh")
    with desk.warehouse.reading() as reader:
        source = reader.rows_of(desk.table)
        desk.put([note("a", "2")])
        assert reader.execute(f"SELECT id, text FROM {source}").fetchall() == [("a", "1")]
    assert desk.texts() == {"a": "2"}


@pytest.mark.slow
def test_old_keys_are_forgotten(path: Path, models: Models, note: Note) -> None:
    warehouse = Warehouse.open(path, models, ServiceSettings(ledger_days=0))
    desk = Desk(warehouse)
    desk.put([note("a")], "fresh", "key")
    warehouse.compact()
    assert not desk.put([note("a")], "replay", "key").duplicate
    warehouse.close()


@pytest.mark.slow
def test_late_fresh_rows_are_not_duplicated(desk: Desk, note: Note) -> None:
    desk.put([note("x")], "fresh", "first", Epoch("run/load", 1))
    desk.put([note("a"), note("b")], "replay", "second", Epoch("run/load", 2))
    late = desk.put([note("a"), note("b"), note("c")], "fresh", "late", Epoch("run/load", 1))
    assert late == Receipt(3)
    assert set(desk.texts()) == {"a", "b", "c", "x"}
    assert desk.stored() == 4
    assert not desk.is_dirty()


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["fresh", "replay"])
@pytest.mark.parametrize("scope", ["run/load", "run/load#7"])
def test_a_late_request_replaces_nothing_newer(
    desk: Desk, note: Note, delivery: Delivery, scope: str
) -> None:
    desk.put([note("a", "old"), note("b", "old")], "fresh", "1", Epoch(scope, 1))
    desk.put([note("a", "resumed")], "replay", "2", Epoch("run/load", 2))
    desk.put([note("a", "of another run")], "replay", "3", Epoch("next/load", 1))
    late = desk.put([note("a", "late"), note("b", "late"), note("c", "late")], delivery, "4", Epoch(scope, 1))
    assert late == Receipt(3)
    assert desk.texts() == {"a": "of another run", "b": "late", "c": "late"}
    assert desk.stored() == 3


@pytest.mark.slow
def test_rows_that_came_after_a_look_are_kept_when_asked_to(idle: tuple[Desk, Writer], note: Note) -> None:
    desk, writer = idle
    guarded = replace(desk.submission([note("a", "old"), note("b", "old")], "replay"), unless_newer=0)
    futures = [
        desk.warehouse.submit(one)
        for one in (desk.submission([note("a", "new")], "foreign"), guarded, replace(guarded))
    ]
    writer.start()
    assert [future.result().written for future in futures] == [1, 2, 2]
    assert desk.texts() == {"a": "new", "b": "old"}
    newest = replace(guarded, unless_newer=10)
    desk.warehouse.submit(newest).result()
    assert desk.texts() == {"a": "old", "b": "old"}
    desk.warehouse.close()


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [Epoch("run/load", 2), Epoch("run/load", 3), None])
def test_fresh_rows_of_no_earlier_epoch_are_appended(desk: Desk, note: Note, epoch: Epoch | None) -> None:
    desk.put([note("a")], "replay", None, Epoch("run/load", 2))
    desk.put([note("a")], "fresh", None, epoch)
    assert desk.stored() == 2, "ids that a client calls new are not looked for"


@pytest.mark.slow
def test_lower_epoch_does_not_reset_a_higher_one(desk: Desk, note: Note) -> None:
    for number in (3, 1):
        desk.put([note("a")], "replay", None, Epoch("run/load", number))
    desk.put([note("a")], "fresh", None, Epoch("run/load", 2))
    assert desk.stored() == 1


@pytest.mark.slow
def test_an_epoch_counts_in_its_scope_alone(desk: Desk, note: Note) -> None:
    desk.put([note("a")], "replay", None, Epoch("run/load", 9))
    desk.put([note("a")], "fresh", None, Epoch("run/other", 1))
    assert desk.stored() == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("later", "late", "rows"),
    [("run/load", "run/load#7", 1), ("run/load#7", "run/load", 1), ("run/load#7", "run/load#8", 2)],
    ids=["the whole overtakes a part", "a part overtakes the whole", "a part does not overtake another"],
)
def test_parts_of_a_scope_and_the_whole_overtake_each_other(
    desk: Desk, note: Note, later: str, late: str, rows: int
) -> None:
    desk.put([note("a")], "replay", None, Epoch(later, 9))
    desk.put([note("a")], "fresh", None, Epoch(late, 1))
    assert desk.stored() == rows


@pytest.mark.slow
def test_parts_are_known_after_a_restart(path: Path, models: Models, note: Note) -> None:
    with_parts = Warehouse.open(path, models)
    Desk(with_parts).put([note("a")], "replay", None, Epoch("run/load#7", 9))
    with_parts.close()
    desk = Desk(Warehouse.open(path, models))
    desk.put([note("a")], "fresh", None, Epoch("run/load", 1))
    assert desk.stored() == 1
    desk.warehouse.close()


@pytest.mark.slow
def test_an_epoch_counts_in_its_table_alone(desk: Desk, note: Note) -> None:
    medical = desk.warehouse.tables["Medical"]
    row = {
        "id": "a",
        "patient_name": "A",
        "patient_age": 1,
        "doctor": "B",
        "transform_timestamp": "2026-11-23T10:00:00+00:00",
    }
    other = Submission(
        model="Medical", table=medical, rows=[row], delivery="replay", epoch=Epoch("run/load", 9)
    )
    desk.warehouse.submit(other).result()
    for _ in range(2):
        desk.put([note("a")], "fresh", None, Epoch("run/load", 1))
    assert desk.stored() == 2


@pytest.mark.slow
def test_a_restart_knows_the_epochs(path: Path, models: Models, note: Note) -> None:
    desk = Desk(Warehouse.open(path, models))
    desk.put([note("a")], "replay", None, Epoch("run/load", 2))
    desk.warehouse.close()
    desk = Desk(Warehouse.open(path, models))
    desk.put([note("a")], "fresh", None, Epoch("run/load", 1))
    assert desk.stored() == 1
    desk.warehouse.close()


@pytest.mark.slow
def test_a_warehouse_from_before_there_were_epochs_learns_them(
    path: Path, models: Models, note: Note
) -> None:
    import duckdb

    Warehouse.open(path, models).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("DROP TABLE _odw_epochs")
    desk = Desk(Warehouse.open(path, models))
    desk.put([note("a")], "replay", None, Epoch("run/load", 2))
    desk.put([note("a")], "fresh", None, Epoch("run/load", 1))
    assert desk.stored() == 1
    desk.warehouse.close()


@pytest.mark.slow
def test_epoch_counts_from_the_request_that_raises_it(idle: tuple[Desk, Writer], note: Note) -> None:
    desk, writer = idle
    work: list[tuple[Delivery, int, list[Row]]] = [
        ("fresh", 1, [note("a", "stored")]),
        ("replay", 2, [note("b", "replayed")]),
        ("fresh", 1, [note("b", "late")]),
        ("fresh", 2, [note("c", "new")]),
    ]
    futures = [
        desk.warehouse.submit(desk.submission(rows, delivery, epoch=Epoch("run/load", number)))
        for delivery, number, rows in work
    ]
    writer.start()
    assert [future.result().written for future in futures] == [1, 1, 1, 1]
    assert desk.texts() == {"a": "stored", "b": "replayed", "c": "new"}
    assert desk.stored() == 3
    desk.warehouse.close()


@pytest.mark.slow
def test_only_requests_after_a_higher_epoch_are_replays(path: Path, models: Models, note: Note) -> None:
    desk = Desk(Warehouse.open(path, models))
    desk.put([note("a"), note("b")], "fresh", None, Epoch("run/load", 1))
    desk.warehouse.close()
    tables = tables_of(models)
    settings = ServiceSettings(max_queued_requests=4)
    storage = Storage(path, tables.values(), settings.memory_limit)
    storage.open()
    writer = Writer(storage.cursor, storage.reopen, tables.values(), settings)
    desk = Desk(Warehouse(storage, writer, tables))
    futures = [
        desk.warehouse.submit(desk.submission([note(identifier)], "fresh", epoch=Epoch("run/load", number)))
        for identifier, number in (("a", 1), ("c", 2), ("b", 1))
    ]
    writer.start()
    for future in futures:
        future.result()
    with desk.warehouse.reading() as reader:
        counts = dict(reader.execute('SELECT id, count(*) FROM "Note" GROUP BY id').fetchall())
    assert counts == {"a": 2, "b": 1, "c": 1}
    desk.warehouse.close()


@pytest.mark.slow
def test_an_epoch_whose_rows_were_refused_is_not_known(desk: Desk, note: Note) -> None:
    desk.put([note("a")], "fresh", None, Epoch("run/load", 1))
    too_large = [note("x", size=2**63)]
    failed = desk.warehouse.submit(desk.submission(too_large, "replay", epoch=Epoch("run/load", 2)))
    assert isinstance(failed.exception(), WriteFailedError)
    desk.put([note("a")], "fresh", None, Epoch("run/load", 1))
    assert desk.stored() == 2


@pytest.mark.slow
def test_old_epochs_are_forgotten(path: Path, models: Models, note: Note) -> None:
    desk = Desk(Warehouse.open(path, models, ServiceSettings(ledger_days=0)))
    desk.put([note("a")], "replay", None, Epoch("run/load", 2))
    desk.warehouse.compact()
    desk.put([note("a")], "fresh", None, Epoch("run/load", 1))
    assert desk.stored() == 2
    desk.warehouse.close()


class TestTheFileIsGone:
    """A file that was removed can still be written, and what is written is lost."""

    def refused(self, desk: Desk, row: Row) -> str:
        with pytest.raises(WarehouseDownError) as caught:
            desk.put([row], "fresh")
        assert desk.warehouse.problem == str(caught.value)
        return str(caught.value)

    @pytest.mark.slow
    @pytest.mark.parametrize("what", ["file", "directory"])
    def test_nothing_is_acknowledged_any_more(self, path: Path, desk: Desk, note: Note, what: str) -> None:
        desk.put([note("a")], "fresh")
        path.unlink() if what == "file" else shutil.rmtree(path.parent)

        assert desk.warehouse.problem is not None
        text = self.refused(desk, note("b"))
        assert text.startswith(f"the warehouse {path} was removed or replaced while the service was running")
        assert not path.exists(), "there is no fresh start by surprise"

    @pytest.mark.slow
    def test_another_file_in_its_place_is_not_written(self, path: Path, desk: Desk, note: Note) -> None:
        desk.put([note("a")], "fresh")
        path.unlink()
        path.write_bytes(b"something else")

        self.refused(desk, note("b"))
        assert path.read_bytes() == b"something else"

    @pytest.mark.slow
    def test_it_continues_when_the_file_is_put_back(self, path: Path, desk: Desk, note: Note) -> None:
        desk.put([note("a")], "fresh")
        aside = path.rename(path.with_name("aside.duckdb"))
        self.refused(desk, note("b"))
        aside.rename(path)

        desk.put([note("b")], "fresh")
        assert (desk.stored(), desk.warehouse.problem) == (2, None)

    @pytest.mark.slow
    def test_one_that_goes_during_the_commit_is_noticed_before_the_answer(
        self, path: Path, desk: Desk, note: Note, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = GroupCommit.commit

        def commit(self: GroupCommit, group: Sequence[Encoded]) -> list[Receipt]:
            receipts = real(self, group)
            path.unlink()
            return receipts  # type: ignore[return-value]

        monkeypatch.setattr(GroupCommit, "commit", commit)
        self.refused(desk, note("a"))

    @pytest.mark.slow
    def test_a_database_that_broke_is_not_replaced(self, path: Path, desk: Desk, note: Note) -> None:
        desk.put([note("a")], "fresh")
        desk.warehouse.writer._commit = None  # as after an error that DuckDB does not recover from
        path.unlink()

        self.refused(desk, note("b"))
        assert not path.exists()
