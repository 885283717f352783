"""Values with positions mean what `yaml.safe_load` means."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from engine.config.yaml_document import parse_scalar, parse_yaml
from engine.errors import ConfigError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


@pytest.mark.slow
@given(JSON, st.booleans())
def test_reads_what_safe_load_reads(data: object, flow: bool) -> None:
    text = yaml.safe_dump(data, default_flow_style=flow, allow_unicode=True)
    value = parse_yaml(text, "f")
    assert value is not None
    assert value.plain() == yaml.safe_load(text)


@pytest.mark.parametrize(
    "scalar",
    [
        "5",
        "0x1F",
        "1_000",
        "1e3",
        "1.5",
        ".inf",
        "true",
        "No",
        "~",
        "null",
        "2026-01-31",
        "a b",
        "'5'",
    ],
)
def test_scalars_are_those_of_safe_load(scalar: str) -> None:
    value = parse_yaml(f"a: {scalar}\n", "f")
    assert value is not None
    assert value.plain() == yaml.safe_load(f"a: {scalar}\n")
    if not scalar.startswith("'"):
        assert parse_scalar(scalar) == yaml.safe_load(scalar)


@pytest.mark.parametrize(
    ("scalar", "taken"),
    [("010", "8"), ("-0_7", "-7"), ("12:30", "750"), ("1:30.5", "90.5"), ("NO", "false"), ("ON", "true")],
)
def test_what_yaml_seldom_reads_as_meant_is_refused(scalar: str, taken: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(f"a: {{b: {scalar}}}\n", "f")
    (problem,) = caught.value.problems
    assert (
        str(problem) == f'f:1:8: a.b: YAML reads `{scalar}` as {taken} (quote it if it is text: "{scalar}")'
    )
    quoted = parse_yaml(f"a: ['{scalar}', \"{scalar}\", 0, 00:a, no, x NO]\n", "f")
    assert quoted is not None
    assert quoted.plain() == {"a": [scalar, scalar, 0, "00:a", False, "x NO"]}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a: b: c\n", "quote text that contains `: `"),
        ('a: "b\nc: d\n', "the quote in line 1, column 4 is not closed"),
    ],
)
def test_a_broken_scalar_has_its_remedy(text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        parse_yaml(text, "f")


@pytest.mark.parametrize(
    "text", ["a: b: c", "[1, 2]", "{", "*x", "!tag", "@", "a: b", "2024-13-45", "=", "<<"]
)
def test_text_that_is_no_plain_scalar_stays_text(text: str) -> None:
    assert parse_scalar(text) == text


def test_nothing_is_null() -> None:
    assert parse_scalar("") is None
    assert parse_yaml("", "f") is None


def test_anchors_and_merges_mean_what_safe_load_means() -> None:
    text = (
        "base: &base {a: 1, b: 2}\n"
        "more: &more {<<: *base, b: 3, c: 4}\n"
        "last: {<<: [*more, *base], c: 5}\n"
        "again: {<<: *more}\n"
        "same: *more\n"
    )
    value = parse_yaml(text, "f")
    assert value is not None
    assert value.plain() == yaml.safe_load(text)


def test_positions_are_those_of_keys_and_values() -> None:
    value = parse_yaml("a:\n  - x\n  - ä: {c: 1}\n", "f.yaml")
    assert value is not None
    inner = value.data["a"].data[1].data["ä"]
    assert (inner.data["c"].place.line, inner.data["c"].place.column) == (3, 12)
    assert inner.data["c"].place.path == "a.1.ä.c"
    assert (inner.keys["c"].line, inner.keys["c"].column) == (3, 9)


def test_merged_mappings_report_duplicates_but_not_overrides() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("a: &a {x: 1, x: 2}\nb: {<<: *a, x: 3}\nc: *a\n", "f")
    assert [str(problem) for problem in caught.value.problems] == [
        "f:1:14: a.x: duplicate key `x`, first given in line 1"
    ]


def test_nesting_that_would_exhaust_the_stack_is_refused() -> None:
    with pytest.raises(ConfigError, match="nested deeper than 64 levels"):
        parse_yaml("[" * 500_000, "f")


def test_a_byte_order_mark_is_no_content() -> None:
    from engine.config.yaml_document import parse_bytes

    value = parse_bytes("a: 1".encode("utf-8-sig"), "f")
    assert value is not None
    assert value.plain() == {"a": 1}
