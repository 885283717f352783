"""Patching records before they are replayed."""

from __future__ import annotations

import pytest

from engine.dead_letters.patch import apply_patches, parse_patch
from engine.errors import ConfigError


def patched(record: object, *texts: str) -> object:
    return apply_patches(record, [parse_patch(text) for text in texts])


@pytest.mark.parametrize(
    ("record", "patch", "expected"),
    [
        ({"age": 1}, "age=41", {"age": 41}),
        ({"age": "1"}, "age=41", {"age": "41"}),
        ({"name": "x"}, "name=a=b~c", {"name": "a=b~c"}),
        ({}, "tags=[1, 2]", {"tags": [1, 2]}),
        ({"tags": [1]}, "tags=not json", {"tags": "not json"}),
        ({"ok": False}, "ok=null", {"ok": None}),
        ({"name": "x"}, "name=", {"name": ""}),
        ({"a": {"b": 1, "c": 2}}, "a.b=5", {"a": {"b": 5, "c": 2}}),
        ({"a.b": 1}, "a.b=5", {"a.b": 5}),
        ({}, "a.b=5", {"a": {"b": 5}}),
        ({"name": "[DLQ]x.txt"}, r"name~^\[DLQ\]~", {"name": "x.txt"}),
        ({"name": "john doe"}, r"name~(\w+) (\w+)~\2, \1", {"name": "doe, john"}),
        ({"name": "x"}, "missing~a~b", {"name": "x"}),
        ({"name": "x"}, "missing.deep~a~b", {"name": "x"}),
        ({"age": 5}, "age~5~6", {"age": 5}),
        (["not", "a", "mapping"], "a=1", ["not", "a", "mapping"]),
        ({"a": 5}, "a.b=1", {"a": 5}),
    ],
)
def test_a_patch_changes_what_it_names_and_nothing_else(record: object, patch: str, expected: object) -> None:
    before = repr(record)
    assert patched(record, patch) == expected
    assert repr(record) == before


def test_patches_are_made_in_order() -> None:
    assert patched({"a": "x"}, "a=yy", "a~y~z") == {"a": "zz"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name", "write FIELD=VALUE or FIELD~REGEX~REPLACEMENT"),
        ("=x", "cannot parse"),
        ("name~x", "lacks the second `~`"),
        ("name~(~x", "is not a valid regular expression"),
        (r"name~x~\3", "is not a valid regular expression"),
    ],
)
def test_an_invalid_patch_is_refused_with_the_form(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_patch(text)
