"""Tables from models: columns, values, and files that do not fit."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel

from engine.errors import RegistryError, StateCorruptError, StateError, StateVersionError
from engine.service.models import IngestModel
from engine.service.storage import state_error
from engine.service.submission import Submission
from engine.service.tables import tables_of
from engine.service.warehouse import Warehouse


class Colour(Enum):
    RED = "red"


class Wide(BaseModel):
    text: str
    id: str
    whole: int | None = None
    real: float = 0.5
    flag: bool = True
    tags: list[str] = []
    level: Literal["A", "B"] = "A"
    colour: Colour = Colour.RED
    day: date | None = None
    moment: datetime | None = None
    extra: dict[str, int] = {}


def test_columns_follow_the_model_with_the_key_first() -> None:
    table = tables_of([IngestModel("Wide", Wide, "Wide")])["Wide"]
    assert [(column.name, column.sql_type) for column in table.columns] == [
        ("id", "VARCHAR"),
        ("text", "VARCHAR"),
        ("whole", "BIGINT"),
        ("real", "DOUBLE"),
        ("flag", "BOOLEAN"),
        ("tags", "VARCHAR[]"),
        ("level", "VARCHAR"),
        ("colour", "VARCHAR"),
        ("day", "DATE"),
        ("moment", "TIMESTAMP"),
        ("extra", "JSON"),
    ]
    assert table.key == "id"


@pytest.mark.slow
def test_values_of_every_type_come_back(path: Path) -> None:
    warehouse = Warehouse.open(path, [IngestModel("Wide", Wide, "Wide")])
    moment = datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=2)))
    row = {
        "id": "a\x00é😀",
        "text": "",
        "whole": -(2**63),
        "tags": ["x", "y"],
        "colour": Colour.RED,
        "day": date(2026, 11, 23),
        "moment": moment,
        "extra": {"k": 1},
    }
    warehouse.submit(Submission(model="Wide", table=warehouse.tables["Wide"], rows=[row])).result()
    with warehouse.reading() as reader:
        (stored,) = reader.execute('SELECT * EXCLUDE (_seq) FROM "Wide"').fetchall()
    warehouse.close()
    utc = moment.astimezone(UTC).replace(tzinfo=None)
    expected = (
        "a\x00é😀",
        "",
        -(2**63),
        0.5,
        True,
        ["x", "y"],
        "A",
        "red",
        date(2026, 11, 23),
        utc,
        '{"k":1}',
    )
    assert stored == expected


def test_a_model_without_id_has_no_key() -> None:
    class Plain(BaseModel):
        text: str

    assert tables_of([IngestModel("Plain", Plain, "Plain")])["Plain"].key is None


def test_two_models_that_disagree_about_a_table_are_refused() -> None:
    class One(BaseModel):
        id: str

    class Two(BaseModel):
        id: int

    with pytest.raises(RegistryError, match="'One' and 'Two' disagree"):
        tables_of([IngestModel("One", One, "T"), IngestModel("Two", Two, "T")])


@pytest.mark.slow
def test_a_file_with_other_columns_is_refused_with_the_differences(path: Path) -> None:
    class Before(BaseModel):
        id: str
        size: str
        old: str

    class After(BaseModel):
        id: str
        size: int
        new: str

    warehouse = Warehouse.open(path, [IngestModel("T", Before, "T")])
    row = {"id": "a", "size": "large", "old": "x"}
    warehouse.submit(Submission(model="T", table=warehouse.tables["T"], rows=[row])).result()
    warehouse.close()
    with pytest.raises(StateError) as caught:
        Warehouse.open(path, [IngestModel("T", After, "T")])
    for part in (
        "table T",
        "size is VARCHAR, declared BIGINT, and 1 rows do not fit",
        "new is missing, and 1 rows have no value for it",
        "Change the model back",
    ):
        assert part in str(caught.value)
    Warehouse.open(path, [IngestModel("T", Before, "T")]).close()


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database " * 2000)
    with pytest.raises(StateCorruptError):
        Warehouse.open(path, [])


@pytest.mark.slow
def test_a_file_of_a_newer_format_is_refused(path: Path) -> None:
    import duckdb

    Warehouse.open(path, []).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE _odw_meta SET version = 99")
    with pytest.raises(StateVersionError, match="newer engine"):
        Warehouse.open(path, [])


def test_a_directory_that_cannot_be_made_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StateError, match="cannot use the warehouse"):
        Warehouse.open(tmp_path / "file" / "warehouse.duckdb", [])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(28, "No space left on device"), "StateFullError"),
        (OSError(122, "Disk quota exceeded"), "StateFullError"),
        (OSError(30, "Read-only file system"), "StateReadOnlyError"),
        (PermissionError(13, "Permission denied"), "StateReadOnlyError"),
        (RuntimeError('Cannot open file "x": Read-only file system'), "StateReadOnlyError"),
        (RuntimeError('Could not write file "x": No space left on device'), "StateFullError"),
        (RuntimeError('Could not set lock on file "x"'), "WarehouseLockedError"),
        (RuntimeError("something else"), "StateError"),
    ],
)
def test_errors_of_the_file_have_their_own_kinds(error: Exception, kind: str) -> None:
    assert type(state_error(error, Path("x"))).__name__ == kind
