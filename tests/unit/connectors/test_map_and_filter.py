"""`filter` and `map` beyond what docs/transforms.md shows."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from connectors.transforms.filtering import Filter, FilterParams
from connectors.transforms.mapping import Map, MapParams
from engine.contract.batch import Batch
from engine.contract.keys import KeyRange
from engine.errors import RecordError


def batch(*records: Any) -> Batch:
    return Batch(list(records), KeyRange("k/", 0, len(records)))


def mapped(record: Any, **params: Any) -> Any:
    derived = Map(MapParams.model_validate(params)).apply(batch(record))
    return derived.records[0] if derived.records else derived.failures[0][1]


class Order(BaseModel):
    id: str
    amount: float


def test_a_filter_keeps_models_as_they_are() -> None:
    orders = [Order(id="a", amount=1), Order(id="b", amount=9)]

    derived = Filter(FilterParams(where="amount > 5", reason="small")).apply(batch(*orders))

    assert derived.records == [orders[1]]
    assert derived.keys.to_list() == ["k/1"]
    assert derived.drops == {"small": 1}


def test_a_filter_sends_only_the_failing_record_to_the_dead_letters() -> None:
    derived = Filter(FilterParams(where="1 / n > 0")).apply(batch({"n": 1}, {"n": 0}, {"n": -1}, {}))

    assert derived.records == [{"n": 1}]
    assert derived.drops == {"filtered": 2}
    ((index, error),) = derived.failures
    assert (index, error.kind) == (1, "ExpressionError")  # type: ignore[union-attr]


def test_a_record_that_is_no_mapping_is_its_own_error() -> None:
    with pytest.raises(RecordError, match="the record is of type int: expected a mapping"):
        Filter(FilterParams(where="n > 0")).apply(batch({"n": 1}, 5))


def test_a_map_makes_a_mapping_of_a_model() -> None:
    assert mapped(Order(id="a", amount=2), set={"twice": "amount * 2"}) == {
        "id": "a",
        "amount": 2,
        "twice": 4,
    }


def test_steps_run_in_the_order_they_are_written() -> None:
    steps = [{"set": {"b": "a + 1"}}, {"rename": {"b": "c"}}, {"set": {"d": "c + 1"}}, {"keep": ["d"]}]

    assert mapped({"a": 1}, steps=steps) == {"d": 3}


def test_set_takes_constants_and_sees_what_was_set_before() -> None:
    params = {"a": 1, "b": "a + 1", "c": True, "d": None, "e": [1, "x"], "f": {"g": "h"}, "i": "'a'"}

    made = mapped({}, set=params)

    assert made == {"a": 1, "b": 2, "c": True, "d": None, "e": [1, "x"], "f": {"g": "h"}, "i": "a"}


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("str", 5, "5"),
        ("str", True, "true"),
        ("int", "12", 12),
        ("int", 3.0, 3),
        ("float", "1.5", 1.5),
        ("bool", "no", False),
        ("date", "2026-03-01T10:00:00Z", "2026-03-01"),
        ("datetime", "2026-03-01", "2026-03-01T00:00:00+00:00"),
        ("json", {"a": 1}, '{"a":1}'),
        ("int", None, None),
    ],
)
def test_cast_changes_types(kind: str, given: object, expected: object) -> None:
    assert mapped({"a": given}, cast={"a": kind, "gone": kind}) == {"a": expected}


@pytest.mark.parametrize(
    ("params", "kind", "message"),
    [
        ({"cast": {"a": "int"}}, "CastError", "field `a`: int: the text is not a number"),
        ({"parse": {"a": "json"}}, "ParseError", "field `a`: from_json: the text is not JSON"),
        ({"parse": {"a": "date"}}, "ParseError", "field `a`: date: the value is not a time"),
        ({"set": {"b": "a + 1"}}, "ExpressionError", "field `b`: expression `a + 1` failed"),
        ({"template": {"b": "{a:.2f}"}}, "ExpressionError", "cannot format text as '.2f'"),
        ({"rename": {"a": "id"}}, "RenameError", "rename: two fields would have the same name"),
        ({"flatten": True}, "FlattenError", "flatten: two fields would have the same name"),
    ],
)
def test_a_failing_action_names_the_field_and_no_value(
    params: dict[str, Any], kind: str, message: str
) -> None:
    error = mapped({"id": 1, "a": "SECRET", "c": {"d": 1}, "c_d": 2}, **params)

    assert isinstance(error, RecordError)
    assert error.kind == kind
    assert message in str(error)
    assert "SECRET" not in str(error)


def test_flatten_goes_to_its_depth_and_leaves_lists() -> None:
    record = {"a": {"b": {"c": {"d": 1}}, "e": [{"f": 1}], "g": {}}, "h": {"i": 1}}

    made = mapped(record, flatten={"fields": ["a"], "separator": "__", "depth": 2})

    assert made == {"a__b__c": {"d": 1}, "a__e": [{"f": 1}], "a__g": {}, "h": {"i": 1}}


def test_a_hash_of_several_fields_tells_them_apart() -> None:
    first = mapped({"a": "x", "b": "yz"}, hash={"id": ["a", "b"]})["id"]
    second = mapped({"a": "xy", "b": "z"}, hash={"id": ["a", "b"]})["id"]

    assert first != second
    assert len(first) == 64


@pytest.mark.parametrize(
    ("params", "keeps"),
    [
        ({"set": {"a": "id"}}, True),
        ({"set": {"id": "a"}}, False),
        ({"rename": {"a": "id"}}, False),
        ({"rename": {"id": "a"}}, False),
        ({"keep": ["a"]}, False),
        ({"keep": ["id"]}, True),
        ({"drop": ["id"]}, False),
        ({"hash": ["id"]}, False),
        ({"flatten": True}, False),
        ({"steps": [{"drop": ["a"]}, {"cast": {"id": "int"}}]}, False),
    ],
)
def test_ids_are_kept_if_no_action_touches_them(params: dict[str, Any], keeps: bool) -> None:
    assert Map(MapParams.model_validate(params)).keeps_ids is keeps


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "no action"),
        ({"steps": [{}]}, "a step without an action"),
        ({"steps": [{"drop": ["a"]}], "drop": ["b"]}, "not both"),
        ({"rename": {"a": "c", "b": "c"}}, "two fields would be called `c`"),
        ({"set": {"a": "b +"}}, "not an expression"),
        ({"template": {"a": "{b!r}"}}, "not a template"),
        ({"template": {"a": "{b"}}, "not a template"),
        ({"parse": {"a": {"as": "date", "format": "%Q"}}}, "'%Q' is not a date format"),
        ({"parse": {"a": {"as": "date", "format": "DD.MM.YYYY"}}}, "is not a date format such as %d.%m.%Y"),
        ({"parse": {"a": {"as": "datetime", "zone": "Ulm"}}}, "'Ulm' is not a time zone"),
    ],
)
def test_mistakes_are_found_when_the_file_is_read(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MapParams.model_validate(params)
    assert message in str(caught.value)


def test_of_several_expressions_the_one_that_failed_is_named() -> None:
    params = {"b": "a + 1", "c": "b * 2", "d": "[one / 0 for one in items]", "e": "matches(x, 'a')"}

    error = mapped({"a": 1, "items": [1]}, set=params)

    assert str(error) == (
        "field `d`: expression `[one / 0 for one in items]` failed in `one / 0`: cannot divide by zero"
    )
    assert mapped({"a": 1, "items": [], "x": "ba"}, set=params) == {
        "a": 1, "items": [], "x": "ba", "b": 2, "c": 4, "d": [], "e": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a.b}", "not a template: in {a.b}: attributes are not allowed at column 1"),
        ("{a}, {foo(a)}", "not a template: in {foo(a)}: unknown function `foo` at column 1"),
        ("{a:%Q}", "not a template: the format '%Q' is not allowed (a format is"),
    ],
)
def test_a_wrong_template_is_quoted_as_written(text: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MapParams.model_validate({"template": {"x": text}})
    assert message in str(caught.value)


def test_a_template_that_fails_is_quoted_as_written() -> None:
    error = mapped({"a": [1], "b": "x"}, template={"x": "{a}, {b}"})

    assert "expression `{a}, {b}` failed: cannot put a list into text" in str(error)
