"""Validation of single records and whole bodies."""

from __future__ import annotations

from datetime import UTC, date, datetime
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import orjson
import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from engine.service.validation import BodyValidator, InvalidBodyError


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    count: int
    note: str | None


class Thing(BaseModel):
    id: str
    size: int
    ratio: float = 1.5
    flag: bool = False
    level: Literal["INFO", "WARN"] = "INFO"
    tags: list[str] = Field(default_factory=list)
    origin: str | None
    seen: datetime | None = None
    colour: Colour | None = None
    inner: Inner | None = None
    ident: UUID | None = None
    label: str | int | None = None


class CheckedThing(Thing):
    """The same with a validator of its own, which takes the way through instances."""

    @field_validator("id")
    @classmethod
    def refuse_bad(cls, value: str) -> str:
        if value == "wicked":
            raise ValueError("bad ids are refused")
        return value


GOOD = {"id": "a", "size": 1}

ACCEPTED = [
    ({"size": 7}, "size", 7),
    ({"size": "7"}, "size", 7),
    ({"size": "-7"}, "size", -7),
    ({"size": 2**63 - 1}, "size", 2**63 - 1),
    ({"ratio": 2}, "ratio", 2.0),
    ({"ratio": "2.5"}, "ratio", 2.5),
    ({"ratio": "1e3"}, "ratio", 1000.0),
    ({"flag": True}, "flag", True),
    ({"level": "WARN"}, "level", "WARN"),
    ({"tags": ["x"]}, "tags", ["x"]),
    ({"origin": None}, "origin", None),
    ({}, "origin", None),
    ({}, "tags", []),
    ({}, "ratio", 1.5),
    ({"seen": "2026-11-23T10:00:00+01:00"}, "seen", datetime(2026, 11, 23, 9, tzinfo=UTC)),
    ({"seen": 12.5}, "seen", datetime(1970, 1, 1, 0, 0, 12, 500_000, tzinfo=UTC)),
    ({"colour": "red"}, "colour", Colour.RED),
    ({"inner": {"count": "3"}}, "inner", {"count": 3, "note": None}),
    (
        {"ident": "12345678-1234-5678-1234-567812345678"},
        "ident",
        UUID("12345678-1234-5678-1234-567812345678"),
    ),
    ({"label": "7"}, "label", "7"),
]

REFUSED = [
    ({"id": 5}, "Input should be a valid string at id"),
    ({"id": None}, "Required value at id, but is none"),
    ({"size": None}, "Required value at size, but is none"),
    ({"size": 1.5}, "Input should be a valid integer at size"),
    ({"size": True}, "Input should be a valid integer at size"),
    ({"size": "1.5"}, "Input should be a valid integer at size"),
    ({"size": " 7"}, "Input should be a valid integer at size"),
    ({"size": 2**63}, "Input should be less than or equal to 9223372036854775807 at size"),
    ({"ratio": "nan"}, "Input should be a valid number at ratio"),
    ({"ratio": "fast"}, "Input should be a valid number at ratio"),
    ({"ratio": True}, "Input should be a valid number at ratio"),
    ({"flag": 1}, "Input should be a valid boolean at flag"),
    ({"flag": "true"}, "Input should be a valid boolean at flag"),
    ({"level": "LOUD"}, "Input should be 'INFO' or 'WARN' at level"),
    ({"tags": [1]}, "Input should be a valid string at tags.0"),
    ({"seen": "2026-11-23T10:00:00"}, "Input should have timezone info at seen"),
    ({"seen": 12}, "Input should be a valid datetime at seen"),
    ({"inner": {"count": None}}, "Required value at inner.count, but is none"),
    ({"inner": {}}, "Missing fields: inner.count"),
]


@pytest.mark.parametrize(("change", "name", "expected"), ACCEPTED)
def test_accepts_and_converts(change: dict[str, object], name: str, expected: object) -> None:
    result = BodyValidator(Thing).read(orjson.dumps(GOOD | change))
    assert result.failures == {}
    assert result.records[0][name] == expected
    assert type(result.records[0][name]) is type(expected)


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_refuses_with_the_contracts_message(change: dict[str, object], message: str) -> None:
    result = BodyValidator(Thing).read(orjson.dumps(GOOD | change))
    assert result.records == []
    assert result.failures == {0: message}


@pytest.mark.parametrize("model", [Thing, CheckedThing])
def test_names_all_missing_fields_at_once(model: type[BaseModel]) -> None:
    assert BodyValidator(model).read(b'[{"flag": true}]').failures == {0: "Missing fields: id, size"}


def test_drops_unknown_fields_even_where_the_model_forbids_them() -> None:
    class Strict(BaseModel):
        model_config = ConfigDict(extra="forbid")
        id: str

    assert BodyValidator(Strict).read(b'{"id": "a", "more": 1}').records == [{"id": "a"}]


def test_keeps_unknown_fields_where_the_model_allows_them() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        id: str

    assert BodyValidator(Open).read(b'{"id": "a", "more": 1}').records == [{"id": "a", "more": 1}]


def test_runs_a_models_own_validators() -> None:
    result = BodyValidator(CheckedThing).read(b'[{"id": "wicked", "size": 1}, {"id": "ok", "size": "2"}]')
    assert result.failures == {0: "Value error, bad ids are refused at id"}
    assert [(record["id"], record["size"], record["origin"]) for record in result.records] == [
        ("ok", 2, None)
    ]


def test_a_mistake_in_a_models_own_code_costs_its_record() -> None:
    class Careless(BaseModel):
        id: str
        share: float

        @field_validator("share")
        @classmethod
        def _inverted(cls, value: float) -> float:
            return 1 / value

    result = BodyValidator(Careless).read(b'[{"id": "a", "share": 2}, {"id": "b", "share": 0}]')
    assert result.records == [{"id": "a", "share": 0.5}]
    assert result.failures == {1: "ZeroDivisionError in the model's own code"}


def test_one_bad_record_leaves_the_others_and_their_places() -> None:
    body = b'[{"id": "a", "size": 1}, {"id": "b"}, 3, {"id": "c", "size": "4"}]'
    result = BodyValidator(Thing).read(body)
    assert [record["id"] for record in result.records] == ["a", "c"]
    assert result.failures == {1: "Missing fields: size", 2: "invalid type: integer, expected an object"}
    assert result.originals == [
        b'{"id": "a", "size": 1}',
        b'{"id": "b"}',
        b"3",
        b'{"id": "c", "size": "4"}',
    ]


def test_an_empty_array_is_no_records() -> None:
    assert BodyValidator(Thing).read(b" [] ").records == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1,",
        b"[1 2]",
        b"nonsense",
        b'{"id": nan}',
        b"{}{}",
        b"5",
        b'"text"',
        b"null",
        b'["\xff"]',
    ],
)
def test_what_is_not_records_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(InvalidBodyError):
        BodyValidator(Thing).read(body)


def test_messages_never_quote_the_values() -> None:
    result = BodyValidator(Thing).read(b'{"id": "a", "size": "secret-value", "tags": "other-secret"}')
    assert "secret" not in result.failures[0]


class Dated(BaseModel):
    id: str
    day: date | None = None
    at: datetime | None = None
    ats: list[datetime] = Field(default_factory=list)
    tree: dict[str, Any] | None = None


WHOLE = "Input should be a valid datetime, such as 2026-01-31T12:00:59Z at at"
DEEP = '{"a":' * 300 + "1" + "}" * 300


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("at", '"20260101"', "Input should be a valid datetime at at"),  # not a day of 1970
        ("at", '"1700000000"', "Input should be a valid datetime at at"),
        ("at", '"2026-01-31"', "Input should be a valid datetime at at"),
        ("at", '"2026-01-31T12:00:00"', "Input should have timezone info at at"),
        ("at", '"2026-01-31T23:59:60Z"', WHOLE),
        ("at", '"2026-01-31T12:00:00+24:00"', WHOLE),
        ("ats", '["86400"]', "Input should be a valid datetime at ats.0"),
        ("day", '"86400"', "Input should be a valid date at day"),
        ("day", '"2026-01-31T00:00:00Z"', "Input should be a valid date at day"),
        ("tree", DEEP, "nested too deeply"),
    ],
)  # fmt: skip
def test_moments_are_written_as_such_and_refusals_say_why(field: str, value: str, message: str) -> None:
    found = BodyValidator(Dated).read(f'{{"id": "a", "{field}": {value}}}'.encode())
    assert (found.records, found.failures) == ([], {0: message})


def test_dates_and_moments_are_taken_as_written() -> None:
    body = b'{"id": "a", "day": "2026-01-31", "at": "2026-01-31 12:00:00+02:00", "ats": [1.5]}'
    (record,) = BodyValidator(Dated).read(body).records
    assert record["day"] == date(2026, 1, 31)
    assert (record["at"], record["ats"]) == (
        datetime(2026, 1, 31, 10, tzinfo=UTC),
        [datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)],
    )
