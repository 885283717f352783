"""`validate`: dead letters of invalid records name the field and the rule, without a value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from connectors.transforms.checking import Validate, ValidateParams
from engine.contract.batch import Batch
from engine.contract.keys import KeyRange
from engine.errors import FatalError

SCHEMA = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "price": {"type": "number", "minimum": 0},
        "mail": {"format": "email"},
        "code": {"pattern": "^[A-Z]+$"},
        "lines": {"type": "array", "items": {"properties": {"n": {"type": "integer"}}}},
    },
}


class Line(BaseModel):
    n: int = Field(gt=0)


class Order(BaseModel):
    id: str
    lines: list[Line] = []


class Noted(Order):
    note: Any = None


HERE = f"{__name__}:Order"


async def checked(*records: Any, **params: Any) -> Batch:
    async with Validate(ValidateParams.model_validate(params)) as node:
        return node.apply(Batch(list(records), KeyRange("k/", 0, len(records))))


async def test_valid_records_pass_unchanged() -> None:
    record = {"id": "a", "price": 5, "lines": [{"n": 1}]}

    derived = await checked(record, schema=SCHEMA)

    assert derived.records[0] is record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"price": 1}, "invalid record: the record: required `id`"),
        ({"id": "a", "price": -5}, "invalid record: `price`: minimum"),
        ({"id": "a", "price": "SECRET"}, "invalid record: `price`: type"),
        ({"id": "a", "mail": "SECRET"}, "invalid record: `mail`: format email"),
        ({"id": "a", "code": "SECRET1"}, "invalid record: `code`: pattern"),
        ({"id": "a", "lines": [{"n": 1}, {"n": "SECRET"}]}, "invalid record: `lines.1.n`: type"),
        ({"lines": [{"n": "SECRET"}] * 5}, "and 3 more"),
    ],
)
async def test_a_broken_rule_is_named_with_its_field(record: dict[str, Any], message: str) -> None:
    derived = await checked({"id": "good"}, record, schema=SCHEMA)

    assert derived.records == [{"id": "good"}]
    ((index, error),) = derived.failures
    assert index == 1
    assert message in str(error)
    assert "SECRET" not in str(error)
    assert error.kind == "InvalidRecord"  # type: ignore[union-attr]


async def test_a_schema_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    path.write_text(json.dumps(SCHEMA))

    assert len(await checked({"id": "a"}, {}, schema=str(path))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read: No such file"), ("{", "is not JSON"), ('{"type": 5}', "not a JSON Schema")],
)
async def test_a_file_that_is_no_schema_stops_the_run(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "schema.json"
    if text is not None:
        path.write_text(text)

    with pytest.raises(FatalError, match=message):
        await checked({}, schema=str(path))


async def test_a_model_checks_and_converts() -> None:
    record = {"id": "a", "lines": [{"n": "5"}], "more": 1}

    assert (await checked(record, model=HERE)).records == [record]
    assert (await checked(record, model=HERE, coerce=True)).records == [{"id": "a", "lines": [{"n": 5}]}]
    ((_, error),) = (await checked({"id": 5, "lines": [{"n": 0}]}, model=HERE)).failures
    assert str(error) == "invalid record: `id`: string_type; `lines.0.n`: greater_than"


async def test_what_a_model_takes_and_json_does_not_fails_only_when_converted() -> None:
    odd = {"id": "a", "note": b"\xff"}
    model = f"{__name__}:Noted"

    assert (await checked(odd, model=model)).records == [odd]
    made = await checked(odd, {"id": "b"}, model=model, coerce=True)
    assert made.records == [{"id": "b", "lines": [], "note": None}]
    assert str(made.failures[0][1]) == "invalid record: it cannot be written as JSON"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "give either `schema` or `model`"),
        ({"schema": {}, "model": HERE}, "give either `schema` or `model`"),
        ({"schema": {"type": "objekt"}}, "not a JSON Schema"),
        ({"schema": {"$ref": "https://example.com/x.json"}}, "points outside the schema"),
        ({"schema": {}, "coerce": True}, "`coerce` needs a `model`"),
        ({"model": "no_such_module:X"}, "cannot import no_such_module:X"),
        ({"model": "json:loads"}, "json:loads is not a Pydantic model"),
    ],
)
def test_mistakes_in_parameters_are_found_at_once(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ValidateParams.model_validate(params)
    assert message in str(caught.value)
