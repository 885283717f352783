from __future__ import annotations

from datetime import UTC, datetime
from types import MappingProxyType

import pytest

from connectors.curated import curate
from connectors.models import INGEST_MODELS
from engine.errors import RecordError

NOW = datetime(2025, 3, 1, 8, 30, tzinfo=UTC)


def test_a_record_becomes_a_row_with_the_time_of_its_making() -> None:
    rows = curate([{"message": "a", "id": "1"}, {"message": "b", "id": "2"}], field="message", now=NOW)
    assert rows == [
        {"message": "a", "id": "1", "transform_timestamp": "2025-03-01T08:30:00+00:00"},
        {"message": "b", "id": "2", "transform_timestamp": "2025-03-01T08:30:00+00:00"},
    ]


def test_all_rows_of_a_list_have_the_same_current_time_with_an_offset() -> None:
    before = datetime.now(UTC)
    rows = curate([{"message": "a"}, {"message": "b"}], field="message")
    stamps = {row["transform_timestamp"] for row in rows if isinstance(row, dict)}
    (stamp,) = map(str, stamps)
    assert before <= datetime.fromisoformat(stamp) <= datetime.now(UTC)


def test_a_marked_record_becomes_an_error_in_its_place() -> None:
    first, second, third = curate(
        [{"message": "a"}, {"message": "[DLQ]secret"}, {"message": "not [DLQ] in front"}],
        field="message",
        now=NOW,
    )
    assert isinstance(first, dict)
    assert isinstance(third, dict)
    assert isinstance(second, RecordError)
    assert str(second) == "message starts with [DLQ]: the record is marked as a failure"
    assert second.kind == "MarkedAsFailure"


def test_the_input_is_unchanged() -> None:
    record = MappingProxyType({"message": "a"})
    assert curate([record], field="message", now=NOW) != [record]
    assert dict(record) == {"message": "a"}


@pytest.mark.parametrize(
    ("model", "field"),
    [
        ("BlobSource", "file_name"),
        ("LogSource", "message"),
        ("EventSource", "distinct_id"),
        ("UnstructuredDataSource", "source_file_path"),
    ],
)
def test_each_source_model_is_refused_for_the_mark_on_its_own_field(model: str, field: str) -> None:
    (entry,) = [entry for entry in INGEST_MODELS if entry.name == model]
    assert entry.transform is not None
    record = dict.fromkeys(entry.model.model_fields, "text")
    (refused,) = entry.transform([{**record, field: "[DLQ]x"}])
    assert isinstance(refused, RecordError)
    assert str(refused).startswith(f"{field} ")
    others = {name: "[DLQ]x" for name in record if name != field}
    (row,) = entry.transform([{**record, **others}])
    assert isinstance(row, dict)
