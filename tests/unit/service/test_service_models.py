"""Ingest models and their origins."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
from pydantic import BaseModel

import engine.service.models as models
from engine.errors import RegistryError
from engine.service.models import IngestModel, check_names, load_ingest_models


class Thing(BaseModel):
    id: str


FOUND = (IngestModel("Thing", Thing, "Thing"),)
WRONG = ("Thing",)


def offer(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    points = [EntryPoint(f"p{n}", value, models.ENTRY_POINT_GROUP) for n, value in enumerate(values)]
    monkeypatch.setattr(
        models, "entry_points", lambda group: points if group == models.ENTRY_POINT_GROUP else []
    )


def test_models_are_found_through_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, f"{__name__}:FOUND")
    assert load_ingest_models() == FOUND


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (f"{__name__}:WRONG", "is not a sequence of IngestModel"),
        (f"{__name__}:ABSENT", "cannot load the ingest models of"),
        ("no_such_module:X", "cannot load the ingest models of"),
    ],
)
def test_unusable_values_are_named(monkeypatch: pytest.MonkeyPatch, value: str, message: str) -> None:
    offer(monkeypatch, value)
    with pytest.raises(RegistryError, match=message):
        load_ingest_models()


def test_two_models_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, f"{__name__}:FOUND", f"{__name__}:FOUND")
    assert load_ingest_models() == FOUND  # the very same model, offered twice, is one
    with pytest.raises(RegistryError, match="'Thing' and 'thing'"):
        check_names([*FOUND, IngestModel("thing", Thing, "Thing")])


@pytest.mark.parametrize("name", ["", "a b", "1st", "x/y", 'x"; DROP TABLE y', "_odw_meta", "é", "x" * 64])
def test_names_are_identifiers(name: str) -> None:
    with pytest.raises(RegistryError):
        IngestModel(name, Thing, "Thing")
    with pytest.raises(RegistryError):
        IngestModel("Thing", Thing, name)
