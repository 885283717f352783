"""Component names."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import engine
from engine.contract.component import Kind
from engine.errors import RegistryError
from engine.registry import Registry


@engine.transform(name="double")
def double(record: int) -> int:
    return record * 2


def test_built_in_components_are_found_by_entry_point() -> None:
    names = Registry.installed().names()

    assert (Kind.SOURCE, "blob") in names
    assert (Kind.SINK, "ingest") in names
    assert names == sorted(names, key=lambda pair: (list(Kind).index(pair[0]), pair[1]))


@pytest.mark.parametrize(("kind", "name"), Registry.installed().names(), ids=lambda value: str(value))
def test_every_installed_component_has_a_full_specification(kind: Kind, name: str) -> None:
    spec = Registry.installed().get(kind, name)

    assert (spec.kind, spec.name) == (kind, name)
    assert spec.summary.endswith(".")
    for field_name, field in spec.params.model_fields.items():
        assert field.description, f"{kind}.{name}: parameter {field_name} has no description"


def test_unknown_name_has_the_nearest_and_all_of_its_kind() -> None:
    expected = r"unknown source 'blobb', did you mean 'blob'\? Known: .*s3"

    with pytest.raises(RegistryError, match=expected):
        Registry.installed().get(Kind.SOURCE, "blobb")


def test_name_of_another_kind_reports_it() -> None:
    with pytest.raises(RegistryError, match="'blob' is a source, not a sink"):
        Registry.installed().get(Kind.SINK, "blob")


def test_broken_entry_point_is_an_error_with_its_reason() -> None:
    def missing() -> object:
        raise AttributeError("module 'connectors.x' has no attribute 'X'")

    registry = Registry({(Kind.SOURCE, "x"): missing})

    with pytest.raises(RegistryError, match=r"cannot import the source 'x': .* no attribute 'X'"):
        registry.get(Kind.SOURCE, "x")


def test_two_packages_with_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint(name, value, "odw_engine.components")
        for name, value in [
            ("source.files", "connectors.files:FilesSource"),
            ("source.files", "odw_files:FilesSource"),
            ("source.stdin", "connectors.files.stdin:StdinSource"),
            ("source.stdin", "connectors.files.stdin:StdinSource"),
        ]
    ]
    monkeypatch.setattr("engine.registry.entry_points", lambda group: entries)
    registry = Registry.installed()

    assert registry.get(Kind.SOURCE, "stdin").name == "stdin"
    message = (
        "two installed packages have a source 'files': write `source: connectors.files:FilesSource` or "
        "`source: odw_files:FilesSource`, or uninstall one of them"
    )
    with pytest.raises(RegistryError, match=re.escape(message)):
        registry.get(Kind.SOURCE, "files")


def test_including_makes_another_registry() -> None:
    registry = Registry({})

    assert registry.including(double).get(Kind.TRANSFORM, "double").name == "double"
    assert registry.names() == []


def test_what_is_not_a_component_cannot_be_included() -> None:
    with pytest.raises(RegistryError, match="is not a component: decorate it"):
        Registry({}).including(len)


def test_dotted_name_needs_no_entry_point() -> None:
    spec = Registry({}).get(Kind.TRANSFORM, f"{__name__}:double")

    assert spec.name == "double"


def test_dotted_name_that_leads_nowhere_is_an_error() -> None:
    with pytest.raises(RegistryError, match=r"cannot import 'no\.such:thing'"):
        Registry({}).get(Kind.TRANSFORM, "no.such:thing")


def test_a_misspelt_component_of_a_module_is_named() -> None:
    with pytest.raises(RegistryError, match=r"has no 'duoble', did you mean 'double'\?"):
        Registry({}).dotted(f"{__name__}:duoble")
    with pytest.raises(RegistryError, match=r"has no 'x'; its components: .*double"):
        Registry({}).dotted(f"{__name__}:x")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import engine\ndef (:\n", "line 2: invalid syntax"),
        ("import engine\n\nx = 1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
        ("import asyncio\nraise asyncio.CancelledError\n", "line 2: CancelledError"),
        ("raise SystemExit(3)\n", "line 1: SystemExit: 3"),
        ("import json\nimport no_such_module\n", "line 2: ModuleNotFoundError: No module named"),
        ("import engine\n@engine.transform\ndef t(): ...\n", r"line \d: TypeError: t\(\) takes 0 positional"),
    ],
)
def test_module_that_fails_when_imported_is_an_error_with_its_line(
    text: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "odw_failing_module.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(RegistryError, match=rf"cannot import .*: odw_failing_module\.py {reason}"):
        Registry({}).get(Kind.TRANSFORM, "odw_failing_module:t")
    assert "odw_failing_module" not in sys.modules
