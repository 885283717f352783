"""`explode` and `mask` beyond what docs/transforms.md shows."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from connectors.transforms.exploding import Explode, ExplodeParams
from connectors.transforms.masking import Mask, MaskParams
from engine.contract.batch import Batch
from engine.contract.keys import KeyRange
from engine.errors import RecordError


def batch(*records: Any) -> Batch:
    return Batch(list(records), KeyRange("k/", 0, len(records)))


def exploded(*records: Any, **params: Any) -> Batch:
    return Explode(ExplodeParams.model_validate({"field": "x", **params})).apply(batch(*records))


def masked(record: Any, **params: Any) -> Any:
    return Mask(MaskParams.model_validate(params)).apply(batch(record)).records[0]


def test_items_have_the_keys_of_their_record_and_place() -> None:
    derived = exploded({"a": 1, "x": [5, 6]}, {"a": 2, "x": [7]})

    assert derived.records == [{"a": 1, "x": 5}, {"a": 1, "x": 6}, {"a": 2, "x": 7}]
    assert derived.keys.to_list() == ["k/0/0", "k/0/1", "k/1/0"]


def test_records_without_items_are_dropped_by_name_or_kept() -> None:
    empty: list[dict[str, Any]] = [{"a": 1, "x": []}, {"a": 2}, {"a": 3, "x": None}]

    assert exploded(*empty).drops == {"empty list": 3}
    assert exploded(*empty, keep_empty=True).records == [{"a": n, "x": None} for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"as": "item"}, {"a": 1, "b": 2, "item": {"c": 3}}),
        ({"merge": True}, {"a": 1, "b": 2, "c": 3}),
        ({"merge": True, "prefix": "x_", "keep": ["a"]}, {"a": 1, "x_c": 3}),
        ({"position": "n", "keep": []}, {"n": 0, "x": {"c": 3}}),
    ],
)
def test_an_item_is_where_it_is_expected(params: dict[str, Any], expected: dict[str, Any]) -> None:
    assert exploded({"a": 1, "b": 2, "x": [{"c": 3}]}, **params).records == [expected]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, {"a": 1, "l": {"b": 2, "k": 5}}),
        ({"as": "item"}, {"a": 1, "l": {"b": 2}, "item": 5}),
        ({"keep": ["a"]}, {"a": 1, "l": {"k": 5}}),
    ],
)
def test_a_list_inside_a_mapping_is_exploded(params: dict[str, Any], expected: dict[str, Any]) -> None:
    records = [{"a": 1, "l": {"b": 2, "k": [5]}}, {"a": 2, "l": None}]

    derived = exploded(*records, field="l.k", **params)

    assert (derived.records, derived.drops) == ([expected], {"empty list": 1})
    assert records[0] == {"a": 1, "l": {"b": 2, "k": [5]}}
    assert exploded({"l.k": [1, 2]}, field="l.k").records == [{"l.k": 1}, {"l.k": 2}]


@pytest.mark.parametrize(
    ("record", "params", "message"),
    [
        ({"x": "SECRET"}, {}, "field `x`: expected a list"),
        ({"x": {"SECRET": 1}}, {}, "field `x`: expected a list"),
        ({"x": [1, 2, 3]}, {"max_items": 2}, "field `x`: 3 items are more than `max_items`"),
        ({"x": [1]}, {"merge": True}, "`merge` needs items that are mappings"),
        ({"a": 1, "x": [{"a": "SECRET"}]}, {"merge": True}, "a field of the same name: set `prefix`"),
    ],
)
def test_what_cannot_be_exploded_is_a_dead_letter(
    record: dict[str, Any], params: dict[str, Any], message: str
) -> None:
    derived = exploded({"x": [{"b": 1}]}, record, **params)

    ((index, error),) = derived.failures
    assert index == 1
    assert isinstance(error, RecordError)
    assert error.kind == "ExplodeError"
    assert message in str(error)
    assert "SECRET" not in str(error)


@pytest.mark.parametrize("params", [{"as": "a", "merge": True}, {"prefix": "a"}])
def test_parameters_that_contradict_each_other_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExplodeParams.model_validate({"field": "x", **params})


def test_fields_are_masked_each_in_its_way_and_inside_lists() -> None:
    record = {
        "name": "Ada", "iban": "DE8937040044", "pin": "12", "gone": None,
        "customer": {"email": "a@b.c", "age": 5}, "lines": [{"note": "x", "n": 1}, {"n": 2}],
    }  # fmt: skip

    made = masked(
        record,
        fields={"name": None, "iban": "partial", "pin": "partial", "gone": "hash", "customer.email": "hash",
                "lines.note": "redact", "not.there": None},
    )  # fmt: skip

    assert made["customer"]["email"] != "a@b.c"
    assert len(made["customer"]["email"]) == 64
    assert made | {"customer": None} == {
        "name": "***", "iban": "********0044", "pin": "**", "gone": None, "customer": None,
        "lines": [{"note": "***", "n": 1}, {"n": 2}],
    }  # fmt: skip
    assert record["name"] == "Ada"


def test_a_keyed_hash_needs_the_key_to_be_recognised() -> None:
    plain = masked({"a": "x"}, fields=["a"], method="hash")["a"]
    keyed = masked({"a": "x"}, fields=["a"], method="hash", secret="s1")["a"]
    other = masked({"a": "x"}, fields=["a"], method="hash", secret="s2")["a"]

    assert len({plain, keyed, other}) == 3
    assert keyed == masked({"a": "x"}, fields=["a"], method="hash", secret="s1")["a"]


def test_partial_masks_each_item_of_a_list() -> None:
    made = masked({"phones": ["0170 999888", None, 12345]}, fields={"phones": "partial"})
    assert made == {"phones": ["*******9888", None, "*2345"]}


def test_a_field_with_a_point_in_its_name_is_masked() -> None:
    record = {"a.b": "s", "a": {"b": "s", "b.c": "s"}, "x": [{"y.z": "s"}]}
    made = masked(record, fields=["a.b", "a.b.c", "x.y.z"])

    assert made == {"a.b": "***", "a": {"b": "***", "b.c": "***"}, "x": [{"y.z": "***"}]}


def test_records_are_hidden_in_displays_before_they_are_masked() -> None:
    mask = Mask(MaskParams(fields={"name": "hash", "to.iban": "partial"}))
    record = {"name": "Ann", "to": [{"iban": "DE12"}], "n": 1}
    assert mask.redact(record, done=False) == {"name": "***", "to": [{"iban": "***"}], "n": 1}
    assert mask.redact(record, done=True) is record
