"""The source `generate`: kinds of fields, and equal records for a seed."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.generate import GenerateParams, GenerateSource
from engine.errors import FatalError

FIELDS = {
    "id": "c-{number:04d}",
    "plan": {"choice": ["free", "paid"], "weights": [9, 1]},
    "score": {"faker": "random_int", "min": 5, "max": 9},
    "where": {"country": "DE", "label": "{id}/{plan}"},
}


async def generated(fields: dict[str, Any] = FIELDS, **more: Any) -> list[dict[str, Any]]:
    source = GenerateSource(GenerateParams(fields=fields, **({"records": 12, "seed": 7} | more)))
    async with source, aclosing(source.extract()) as pages:
        return [record async for page in pages for record in page]


@pytest.mark.slow
async def test_fields_are_templates_choices_providers_and_constants() -> None:
    records = await generated()

    assert [record["id"] for record in records[:2]] == ["c-0000", "c-0001"]
    assert {record["plan"] for record in records} <= {"free", "paid"}
    assert all(5 <= record["score"] <= 9 for record in records)
    assert records[3]["where"] == {"country": "DE", "label": f"c-0003/{records[3]['plan']}"}


@pytest.mark.slow
@given(stop=st.integers(1, 350), page=st.integers(1, 150))
async def test_a_record_is_the_same_wherever_reading_begins(stop: int, page: int) -> None:
    whole = await generated({"value": "faker.random_int"}, records=350)

    assert await generated({"value": "faker.random_int"}, records=stop, page_size=page) == whole[:stop]


@pytest.mark.slow
async def test_another_seed_gives_other_records() -> None:
    assert await generated() == await generated()
    assert await generated() != await generated(seed=8)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"a": "{b}"}, "{b} is unknown here; known are number"),
        ({"a": "x", "b": "{a.__class__}"}, "{a.__class__} is unknown here"),
        ({"a": "{number!r}"}, "is not a format that can be used here"),
        ({"a": "{number:999999999d}"}, "is not a format that can be used here"),
        ({"a": "{"}, "write {{ and }} for braces"),
        ({"a": {"choice": []}}, "expected `choice: [value, …]`"),
        ({"a": {"choice": [1, 2], "weights": [1]}}, "one number from 0 for each of 2"),
        ({"a": {"b": {"faker": 3}}}, "field 'a.b': `faker` takes the name of a provider"),
        ({}, "at least 1 item"),
    ],
)
def test_fields_that_cannot_be_made_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GenerateParams(fields=fields)
    assert message in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "more", "message"),
    [
        (
            {"a": "faker.nmae"},
            {},
            "field 'a': Faker has no provider 'nmae' for this locale; do you mean 'name'?",
        ),
        (
            {"a": {"faker": "random_int", "maximum": 3}},
            {},
            "field 'a': `faker.random_int` cannot be used like this",
        ),
        ({"a": "faker.name", "b": "{a:04d}"}, {}, "field 'b': cannot fill in `{a:04d}`"),
        ({"a": "faker.binary"}, {}, "JSON has no bytes"),
        ({"a": "faker.name"}, {"locale": "xx_XX"}, "Faker has no locale 'xx_XX'"),
    ],
)
async def test_what_faker_does_not_know_names_the_field(
    fields: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(FatalError) as caught:
        await generated(fields, **more)
    assert message in str(caught.value)
