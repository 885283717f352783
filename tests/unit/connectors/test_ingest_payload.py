"""Request bodies: content, division, and keys."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from connectors.ingest.payload import encode, idempotency_key
from connectors.models import BlobSource
from engine.contract.types import Record

ROOM = 1 << 30

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
moments = st.datetimes(timezones=st.sampled_from([UTC]))


class Colour(Enum):
    RED = "red"


class Wide(BaseModel):
    name: str
    count: int
    share: float
    at: datetime
    day: date
    lasted: timedelta
    ref: UUID
    price: Decimal
    colour: Colour
    tags: set[int]
    nested: dict[str, list[datetime | None]]


wide = st.builds(
    Wide,
    name=text,
    count=st.integers(-(2**63), 2**63 - 1),
    share=st.floats(allow_nan=False, allow_infinity=False),
    at=moments,
    day=st.dates(),
    lasted=st.timedeltas(timedelta(0), timedelta(days=10)),
    ref=st.uuids(),
    price=st.decimals(-1000, 1000, places=2),
    colour=st.just(Colour.RED),
    tags=st.sets(st.integers(0, 9)),
    nested=st.dictionaries(text, st.lists(st.none() | moments, max_size=3), max_size=3),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(text, json_values, max_size=4)


def sent(records: Sequence[Record], **limits: int) -> list[object]:
    payload = encode(records, **({"max_body": ROOM, "max_record": ROOM} | limits))
    assert not payload.failures
    return [record for body in payload.bodies for record in orjson.loads(body.content)]


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(wide, max_size=4))
def test_models_are_sent_as_their_json_dump(records: list[Wide]) -> None:
    # through JSON on both sides, because 0.0 and -0.0 or large floats have one spelling there
    dumps = [record.model_dump(mode="json") | {"tags": sorted(record.tags)} for record in records]
    expected = orjson.loads(orjson.dumps(dumps))
    assert sent(records) == expected


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(wide, max_size=4))
def test_plain_mapping_is_sent_like_its_model(records: list[Wide]) -> None:
    assert sent([record.model_dump() for record in records]) == sent(records)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(mappings, max_size=4))
def test_json_mappings_arrive_as_they_are(records: list[dict[str, object]]) -> None:
    assert sent(records) == orjson.loads(orjson.dumps(records))


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(mappings, min_size=1, max_size=30), st.integers(60, 400))
def test_however_a_batch_is_cut_each_record_is_sent_once_and_in_order(
    records: list[dict[str, object]], max_body: int
) -> None:
    payload = encode(records, max_body=max_body, max_record=ROOM)
    assert [index for body in payload.bodies for index in body.indices] == list(range(len(records)))
    for body in payload.bodies:
        assert orjson.loads(body.content) == orjson.loads(orjson.dumps([records[i] for i in body.indices]))
        assert len(body.content) <= max_body or len(body.indices) == 1


@pytest.mark.parametrize("bad", [{"id": "\ud800"}, {"id": object()}, {1: 2}, {"n": 2**70, "x": object()}])
def test_a_record_that_is_no_json_fails_alone(bad: dict[object, object]) -> None:
    payload = encode([{"id": "a"}, bad, {"id": "c"}], max_body=ROOM, max_record=ROOM)
    (body,) = payload.bodies
    assert orjson.loads(body.content) == [{"id": "a"}, {"id": "c"}]
    assert list(body.indices) == [0, 2]
    assert payload.failures[1].kind == "NotSerializable"


def test_integers_of_any_size_are_sent_digit_by_digit() -> None:
    records = [{"id": "a", "n": 2**70, "f": math.nan}, {"id": "ü", "at": datetime(2026, 1, 1, tzinfo=UTC)}]
    payload = encode(records, max_body=ROOM, max_record=ROOM)
    assert json.loads(payload.bodies[0].content) == [
        {"id": "a", "n": 2**70, "f": None},
        {"id": "ü", "at": "2026-01-01T00:00:00Z"},
    ]


def test_a_record_over_the_hard_cap_is_never_sent() -> None:
    payload = encode([{"id": "x" * 500}, {"id": "a"}], max_body=200, max_record=400)
    assert list(payload.failures) == [0]
    assert payload.failures[0].kind == "RecordTooLarge"
    assert [list(body.indices) for body in payload.bodies] == [[1]]


def test_a_record_between_the_two_caps_gets_a_body_of_its_own() -> None:
    payload = encode([{"id": "a"}, {"id": "x" * 500}, {"id": "b"}], max_body=200, max_record=1_000)
    assert [list(body.indices) for body in payload.bodies] == [[0], [1], [2]]


def test_a_key_depends_on_the_bytes_and_on_each_part_of_its_scope() -> None:
    keys = {
        idempotency_key(b"[1]", "run", "Blob"),
        idempotency_key(b"[2]", "run", "Blob"),
        idempotency_key(b"[1]", "other", "Blob"),
        idempotency_key(b"[1]", "run", "Log"),
        idempotency_key(b"[1]", "runB", "lob"),
    }
    assert len(keys) == 5
    assert idempotency_key(b"[1]", "run", "Blob") in keys


def test_a_mixed_batch_of_models_and_mappings_is_one_body() -> None:
    blob = BlobSource(
        id="1", bucket_name="b", file_path="/", file_name="f", file_size=1, permissions=[], ingested_at="t"
    )
    assert sent([blob, {"id": "2"}]) == [blob.model_dump(mode="json"), {"id": "2"}]
