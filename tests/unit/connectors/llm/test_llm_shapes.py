"""All kinds of models: how they are requested, and how answers are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from types import GenericAlias
from typing import Annotated, Any, Generic, Literal, NamedTuple, Optional, TypeVar
from uuid import UUID

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    SecretStr,
    computed_field,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

from connectors.llm import schema as schema_module
from connectors.llm.json_text import NumberLiteral, parse
from connectors.llm.replies import normalise
from connectors.llm.schema import TargetSchema, target_schema
from connectors.llm.shaping import fields_of
from engine.errors import FatalError
from tests.examples import examples

Q = TypeVar("Q")


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Coded(Enum):
    UNKNOWN = 0
    HEART = "C1"
    CARDIOLOGY = HEART
    A = "Apple"
    red = "red"


class Summed(BaseModel):
    total: int
    parts: list[int]

    @model_validator(mode="before")
    @classmethod
    def _sum(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {"total": sum(values["parts"]), **values}


class Mixed(Enum):
    ONE = 1
    TEXT = "text"
    NO = False


class Pair(NamedTuple):
    left: int
    right: str


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int | None = None


class Dog(BaseModel):
    kind: Literal["dog", "wolf"]
    good: bool | None = None


class Inner(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
    first_name: str
    birth_day: date | None = None


class Tags(RootModel[list[str]]):
    """Texts."""


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


class Husband(BaseModel):
    name: str
    wife: Optional[Wife] = None  # noqa: UP045 - a forward reference


class Wife(BaseModel):
    name: str
    husband: Husband | None = None


class Box(BaseModel, Generic[Q]):
    content: Q
    label: str = "box"


Husband.model_rebuild()


def target(**fields: Any) -> TargetSchema:
    config = ConfigDict(strict=True)
    drawn: dict[str, Any] = {name: (one, ...) for name, one in fields.items()}
    model = create_model("Drawn", __config__=config, **drawn)
    return TargetSchema(model, fields_of(model))


def answer_of(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """`value` as a server with constrained decoding can say it."""
    if "$ref" in schema:
        return answer_of(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema:
        for branch in schema["anyOf"]:
            answer = answer_of(value, branch, root)
            if Draft202012Validator({**branch, "$defs": root.get("$defs", {})}).is_valid(answer):
                return answer
        return value
    if isinstance(value, Mapping) and schema.get("type") == "array":
        return [answer_of({"key": k, "value": v}, schema["items"], root) for k, v in value.items()]
    if isinstance(value, list) and schema.get("type") == "object":
        names = schema["properties"]
        value = dict(zip(names, value, strict=True)) if len(names) == len(value) else {}
    if isinstance(value, Mapping):
        return {
            name: answer_of(value.get(name), one, root) for name, one in schema.get("properties", {}).items()
        }
    if isinstance(value, list):
        return [answer_of(one, schema.get("items", {}), root) for one in value]
    return value


def told(schema: TargetSchema, values: Mapping[str, Any]) -> dict[str, Any]:
    """What becomes of the values when a model says them as well as the schema lets it."""
    asked = schema.record()
    Draft202012Validator.check_schema(asked)
    answer = answer_of(values, asked, asked)
    Draft202012Validator(asked).validate(answer)
    return schema.validated(normalise(parse(json.dumps(answer)), schema))


def scalars() -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    words = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=3, max_size=8)
    plain = words.map(lambda text: f"w{text}")
    return st.sampled_from(
        [
            (str, plain),
            (int, st.integers()),
            (bool, st.booleans()),
            (float, st.floats(allow_nan=False, allow_infinity=False)),
            (Decimal, st.decimals(allow_nan=False, allow_infinity=False).map(str)),
            (date, st.dates().map(date.isoformat)),
            (datetime, st.datetimes().map(datetime.isoformat)),
            (time, st.times().map(time.isoformat)),
            (timedelta, st.sampled_from(["P1D", "PT1H30M", "P3DT4H"])),
            (UUID, st.uuids().map(str)),
            (Size, st.sampled_from([1, 2])),
            (Mixed, st.sampled_from([1, "text", False])),
            (Literal[1, "one", True, None], st.sampled_from([1, "one", True, None])),
            (Literal["unknown", "none", "NA"], st.sampled_from(["unknown", "none", "NA"])),
            (Literal[tuple(f"C{n}" for n in range(60))], st.integers(0, 59).map(lambda n: f"C{n}")),
            (Annotated[str, Field(min_length=2, max_length=90)], plain),
            (Annotated[int, Field(ge=0, lt=10)], st.integers(0, 9)),
            (Pair, st.tuples(st.integers(), plain).map(list)),
            (Cat, st.fixed_dictionaries({"kind": st.just("cat"), "lives": st.integers() | st.none()})),
            (
                Annotated[Cat | Dog, Field(discriminator="kind")],
                st.fixed_dictionaries({"kind": st.just("wolf"), "good": st.booleans() | st.none()}),
            ),
            (Tags, st.lists(plain)),
            (
                Inner,
                st.fixed_dictionaries({"first_name": plain, "birth_day": st.just("2026-01-31") | st.none()}),
            ),
            (Box[int], st.fixed_dictionaries({"content": st.integers(), "label": plain})),
        ]
    )


def around(
    inner: st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]],
) -> st.SearchStrategy[tuple[Any, st.SearchStrategy[Any]]]:
    def wrapped(pair: tuple[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
        kind, values = pair
        keys = st.text("abc", min_size=1, max_size=3)
        return st.sampled_from(
            [
                (GenericAlias(list, kind), st.lists(values, max_size=3)),
                (Optional.__getitem__(kind), values | st.none()),
                (GenericAlias(dict, (str, kind)), st.dictionaries(keys, values, max_size=3)),
                (
                    GenericAlias(dict, (int, kind)),
                    st.dictionaries(st.integers().map(str), values, max_size=3),
                ),
                (GenericAlias(tuple, (kind, int)), st.tuples(values, st.integers()).map(list)),
                (GenericAlias(tuple, (kind, ...)), st.lists(values, max_size=3)),
                (GenericAlias(tuple, kind), st.tuples(values).map(list)),
            ]
        )

    return inner.flatmap(wrapped)


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(150))
@given(st.data())
def test_no_value_of_any_model_is_lost(data: st.DataObject) -> None:
    kinds = st.recursive(scalars(), around, max_leaves=3)
    names = data.draw(st.lists(st.sampled_from(["a", "b", "straße", "名前"]), min_size=1, unique=True))
    drawn = {name: data.draw(kinds) for name in names}
    values = {name: data.draw(one) for name, (_, one) in drawn.items()}
    schema = target(**{name: kind for name, (kind, _) in drawn.items()})
    try:
        wanted = schema.model.model_validate_json(json.dumps(values), by_alias=False, by_name=True)
    except ValueError:
        reject()  # not a value of that model after all
    assert told(schema, values) == wanted.model_dump(mode="json", by_alias=False)


class Aliased(BaseModel):
    plain: str = Field(alias="plainText")
    chosen: str = Field(validation_alias=AliasChoices("one", "two"))
    deep: str = Field(validation_alias=AliasPath("a", 0, "b"))
    swapped: str = Field(alias="plain")
    written: str = Field(serialization_alias="w")
    inner: list[Inner]

    @computed_field
    def both(self) -> str:
        return self.plain + self.chosen


def test_aliases_play_no_part_in_what_is_asked_and_validated() -> None:
    values = {"plain": "p", "chosen": "c", "deep": "d", "swapped": "s", "written": "w"}
    values |= {"inner": [{"first_name": "Ann", "birth_day": None}]}  # type: ignore[dict-item]
    schema = target_schema(f"{__name__}:Aliased")
    assert told(schema, values) == {**values, "both": "pc"}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Tree, {"name": "a", "children": [{"name": "b", "children": [{"name": "c", "children": []}]}]}),
        (Husband, {"name": "a", "wife": {"name": "b", "husband": {"name": "c", "wife": None}}}),
        (dict[Size, date], {"1": "2026-01-31"}),
        (dict[str, dict[str, list[int]]], {"a": {"b": [1]}}),
        (int | str, "two tablets"),
        (int | str, 2),
        (list[int | tuple[int, str]], [1, [2, "b"]]),
    ],
    ids=str,
)
def test_recursive_models_mappings_and_unions_keep_their_values(kind: Any, value: Any) -> None:
    assert told(target(it=kind), {"it": value}) == {"it": value}


class Holiday(Enum):
    NEW_YEAR = date(2026, 1, 1)


class Span(Enum):
    SHORT = (1, 2)


class Empty(Enum):
    """Without members."""


class Refusing(BaseModel):
    """Each field is one that cannot be asked for."""

    holidays: list[Holiday]
    span: Span
    raw: Literal[b"a"]

    anything: Any
    bare: dict  # type: ignore[type-arg]
    items: list  # type: ignore[type-arg]
    deep: list[dict[str, Any]]
    secret: SecretStr
    secret_or_none: SecretStr | None
    secrets: list[SecretStr]
    named_secrets: dict[str, Annotated[SecretStr, Field(max_length=9)]]
    empty: Empty
    function: type


@pytest.mark.parametrize("name", Refusing.model_fields)
def test_a_field_that_cannot_be_asked_for_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = create_model("One", **{name: (Refusing.model_fields[name].annotation, ...)})  # type: ignore[call-overload]
    monkeypatch.setattr(schema_module, "_imported", lambda _: one)
    with pytest.raises(FatalError, match=f"`{name}"):
        target_schema("anything:One")


def test_a_schema_that_breaks_pydantic_is_refused() -> None:
    def broken(schema: dict[str, Any]) -> None:
        schema["no such key"]["x"] = 1

    model = create_model("Broken", a=(int, Field(json_schema_extra=broken)))
    with pytest.raises(FatalError, match="its JSON schema cannot be made: KeyError at"):
        schema_module.schema_of(model)


def test_a_record_that_serializes_to_a_list_is_refused() -> None:
    class Listed(BaseModel):
        a: int

        @model_serializer
        def as_list(self) -> list[int]:
            return [self.a]

    with pytest.raises(FatalError, match="serializer of `Listed` has to return an object"):
        schema_module.schema_of(Listed).validated({"a": 1})


def test_a_root_model_has_no_fields_to_ask_for() -> None:
    with pytest.raises(FatalError, match="needs named fields"):
        target_schema(f"{__name__}:Tags")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (Box[int], "Box_int"),
        (create_model("Größe", a=(int, ...)), "Gr_e"),
        (create_model("名", a=(int, ...)), "record"),
    ],
)
def test_a_schema_goes_out_under_a_name_that_endpoints_take(model: type[BaseModel], name: str) -> None:
    assert TargetSchema(model, fields_of(model)).name.startswith(name)


def enums_in(schema: Any) -> int:
    if isinstance(schema, Mapping):
        own = len(schema["enum"]) if isinstance(schema.get("enum"), list) else 0
        return own + sum(map(enums_in, schema.values()))
    return sum(map(enums_in, schema)) if isinstance(schema, list) else 0


def test_many_values_stand_once_however_many_slots_and_fields() -> None:
    codes: Any = Literal.__getitem__(tuple(f"C{number}" for number in range(300)))
    schema = target(a=codes, b=codes, c=GenericAlias(list, codes))
    assert enums_in(schema.slots(["r1", "r2", "r3", "r4", "r5"])) <= 301


def test_more_values_than_endpoints_take_are_stated_in_words() -> None:
    schema = target(code=Literal[tuple(f"C{number}" for number in range(2_000))], small=Literal["x", "y"])
    asked = schema.slots(["r1"])
    assert enums_in(asked) <= 1_000
    assert "C1999" in json.dumps(asked)
    assert told(schema, {"code": "C77", "small": "x"}) == {"code": "C77", "small": "x"}


def test_names_of_an_enum_are_told_and_read() -> None:
    schema = target(code=Coded, size=list[Size])
    assert "- code: one of: 0 (UNKNOWN); C1 (HEART); Apple; red" in schema.describe()
    assert "- size: each one of: 1 (SMALL); 2 (LARGE)" in schema.describe()
    assert enums_in(schema.record()) == 4 + 2
    for code, value in {"unknown": 0, "Heart": "C1", "c1": "C1", "a": "Apple", "RED": "red"}.items():
        read = normalise({"code": code, "size": ["large", "1 (SMALL)"]}, schema)
        assert schema.validated(read) == {"code": value, "size": [2, 1]}


def test_a_validator_that_comes_first_may_fill_a_field() -> None:
    schema = TargetSchema(Summed, fields_of(Summed))
    assert not schema.required
    assert told(schema, {"total": None, "parts": [1, 2]}) == {"total": 3, "parts": [1, 2]}


def test_formats_and_bounds_are_stated_in_words() -> None:
    described = target(
        day=date,
        price=Decimal,
        stars=Annotated[int, Field(ge=1, le=5, description="Rating")],
        days=list[date],
    ).describe()
    assert "- day: date as YYYY-MM-DD" in described
    assert "- price: number, digit by digit" in described
    assert "- stars: Rating (at least 1, at most 5)" in described
    assert "- days: each date as YYYY-MM-DD" in described


@pytest.mark.parametrize(
    ("kind", "said", "value"),
    [
        (str, 123456789012345678901234, "123456789012345678901234"),
        (str, "12.50", "12.50"),
        (Literal[1, 2, 3], "3", 3),
        (Literal["Red", "Blue"], "red", "Red"),
        (Literal["Unknown", "Known"], "unknown", "Unknown"),
        (int, "34", 34),
        (int, 34.0, 34),
        (bool, "true", True),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (tuple[int, str], [1, "a"], [1, "a"]),
    ],
    ids=str,
)
def test_values_said_loosely_are_read_where_they_can_mean_one_thing(kind: Any, said: Any, value: Any) -> None:
    schema = target(it=kind)
    assert schema.validated(normalise(parse(json.dumps({"it": said})), schema)) == {"it": value}


@pytest.mark.parametrize(
    ("kind", "told", "members"),
    [
        (frozenset[str], [*"hgfedcbag"], [*"hgfedcba"]),
        (set[Decimal], [NumberLiteral(f"{one}.50") for one in "7531246"], [f"{one}.50" for one in "7531246"]),
        (set[Annotated[str, AfterValidator(str.upper)]] | None, ["b", "C", "A"], ["B", "C", "A"]),
        (set[int | str], [2, 1, "1", "b", 2], [2, 1, "1", "b"]),
        (frozenset[Literal["a", "b", "c"]], ["c", "a", "c", "b"], ["c", "a", "b"]),
        (dict[str, frozenset[int]], [{"key": "k", "value": [8, 16, 0, 24]}], {"k": [8, 16, 0, 24]}),
    ],
    ids=str,
)
def test_members_of_a_set_keep_the_order_of_the_document(kind: Any, told: Any, members: Any) -> None:
    schema = target(it=kind)
    assert schema.validated(normalise({"it": told}, schema)) == {"it": members}


def test_numbers_keep_their_digits_where_text_was_asked_for() -> None:
    schema = target(it=Decimal, text=str)
    values = normalise(parse('{"it": 1234567890.12345678901234567890, "text": 12.50}'), schema)
    assert schema.validated(values) == {"it": "1234567890.12345678901234567890", "text": "12.50"}


def test_a_key_that_is_told_twice_loses_no_value_silently() -> None:
    schema = target(lab=dict[str, int])
    twice = [{"key": "a", "value": 1}, {"key": "a", "value": 2}]
    with pytest.raises(ValueError, match="lab"):
        schema.validated(normalise({"lab": twice}, schema))
