"""Models that a file declares under `warehouse:`."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from engine.config import load_file
from engine.errors import ConfigError
from engine.plan.compile import compile_file
from engine.registry import Registry
from engine.service.declared import DeclarationError, Declared

HEAD = """\
version: 1
connections: {warehouse: {url: sandbox}}
warehouse:
  models:
"""
TAIL = """
pipelines:
  p:
    nodes:
      read: {source: jsonl, with: {path: x.jsonl}}
      load: {sink: ingest, with: {connection: warehouse, model: MODEL}}
"""

READING = """\
    Reading:
      table: Measurement
      fields:
        id: str
        celsius: float
        place: str?
        level: {type: str, values: [LOW, HIGH], default: LOW, description: How warm it is}
        tags: list[str]?
        taken: {type: date?, default: null}
        price: {type: decimal, default: 1.5}
        extra: json?
"""


class Visit(BaseModel):
    id: str


def convert(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return records


def compiled(path: Path, models: str, model: str = "Reading") -> Declared | None:
    file = path / "pipelines.yaml"
    file.write_text(HEAD + models + TAIL.replace("MODEL", model), encoding="utf-8")
    return compile_file(load_file(file, environ={}), Registry.installed())["p"].warehouse


def problems(path: Path, models: str, model: str = "Reading") -> str:
    with pytest.raises(ConfigError) as caught:
        compiled(path, models, model)
    return "\n".join(str(one) for one in caught.value.problems)


def test_fields_become_a_model(tmp_path: Path) -> None:
    declared = compiled(tmp_path, READING)
    assert declared is not None
    (reading,) = Declared.from_json(declared.to_json()).models()
    assert (reading.name, reading.table) == ("Reading", "Measurement")
    row = reading.model.model_validate({"id": "r", "celsius": 1})
    assert row.model_dump() == {
        "id": "r",
        "celsius": 1.0,
        "place": None,
        "level": "LOW",
        "tags": None,
        "taken": None,
        "price": Decimal("1.5"),
        "extra": None,
    }
    dated = reading.model.model_validate({"id": "r", "celsius": 1, "taken": "2026-01-02"})
    assert dated.model_dump()["taken"] == dt.date(2026, 1, 2)


def test_classes_and_transforms_are_imported(tmp_path: Path) -> None:
    other = f"{{model: {__name__}:Visit, transform: '{__name__}:convert'}}"
    models = f"    Visit: {__name__}:Visit\n    Other: {other}\n"
    declared = compiled(tmp_path, models, "visit")
    assert declared is not None
    visit, second = declared.models()
    assert (visit.model.__name__, second.table) == ("Visit", "Other")
    assert second.transform is not None


def test_modules_beside_the_file_are_found(tmp_path: Path) -> None:
    source = "from pydantic import BaseModel\n\n\nclass Beside(BaseModel):\n    id: str\n"
    (tmp_path / "beside_models.py").write_text(source)
    assert compiled(tmp_path, "    Beside: beside_models:Beside\n", "Beside") is not None


def test_a_typo_in_a_sinks_model_is_found_before_the_run(tmp_path: Path) -> None:
    found = problems(tmp_path, READING, "Readin")
    assert "pipelines.yaml:21" in found
    assert "unknown ingest model `Readin`" in found
    assert "Reading" in found


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        ("    A: {fields: {id: strr}}\n", "`strr` is not a type"),
        ("    A: {fields: {id: 'list[strr]'}}\n", "`strr` is not a type"),
        ("    A: {fields: {_id: str}}\n", "a field's name is a letter"),
        ("    A: {fields: {}}\n", "at least one field"),
        ("    A: {table: T}\n", "either `fields` or `model`"),
        ("    A: {fields: {n: {type: int, default: x}}}\n", "the default does not fit the type `int`"),
        ("    A: {fields: {n: {type: int, values: [a]}}}\n", "`values` are texts"),
        ("    A: {fields: {id: str}, row: 'a:B'}\n", "`row` belongs to a `transform`"),
        ("    A: no_such_module:A\n", "cannot be imported"),
        ("    A: datetime:date\n", "is not a Pydantic model"),
        ("    A: {fields: {id: str}, transform: nothing}\n", "expected `module:name`"),
        ("    'a b': {fields: {id: str}}\n", "must be a letter followed by"),
        ("    A: {fields: {id: str}, tabel: T}\n", "tabel"),
        (
            "    DailyPageViews: {fields: {id: str}}\n",
            "'DailyPageViews'.* is the built-in view getDailyPageViews",
        ),
        (
            "    A: {fields: {id: str}, table: dailypageviews}\n",
            "'A'.* is the built-in view getDailyPageViews",
        ),
        ("    Blobs: {fields: {id: str}}\n", "'Blobs'.* is the built-in route getBlobs of table 'Blob'"),
        ("    logsource: {fields: {id: str}}\n", "two ingest models are called 'LogSource' and 'logsource'"),
        ("    Medical: {fields: {id: str}}\n", "two ingest models are called 'Medical' and 'Medical'"),
        ("    A: 5\n", "A"),
    ],
)
def test_what_cannot_be_a_model_is_named_with_its_place(tmp_path: Path, models: str, problem: str) -> None:
    found = problems(tmp_path, models, "LogSource")
    assert re.search(re.escape(problem).replace(r"\.\*", ".*"), found)
    assert "pipelines.yaml:5" in found


def test_the_place_of_a_conflict_is_the_models_own() -> None:
    """The message quotes another declared model, too."""
    models = {"B": {"fields": {"id": "str"}, "table": "A"}, "A": {"fields": {"id": "int"}, "table": "C"}}
    models["C"] = {"fields": {"id": "str"}, "table": "Medicals"}
    with pytest.raises(DeclarationError) as caught:
        Declared({"models": models}, ".").routes()
    assert caught.value.path == ("models", "A"), caught.value


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("getBlobs", "getBlobs"),
        ("GETlogs", "getLogs"),
        ("getdailypageviews", "getDailyPageViews"),
        ("getA", "getA"),
    ],
)
@pytest.mark.parametrize("section", ["pipelines", "aliases"])
def test_names_of_reading_routes_are_refused(tmp_path: Path, name: str, route: str, section: str) -> None:
    path = tmp_path / "pipelines.yaml"
    pipeline = "nodes: {a: {source: blob, with: {records: 1}}, b: {sink: stdout}}"
    names = f"pipelines: {{{name if section == 'pipelines' else 'p'}: {{{pipeline}}}}}\n"
    names += f"aliases: {{{name}: p}}\n" if section == "aliases" else ""
    path.write_text(f"version: 1\nwarehouse: {{models: {{A: {{fields: {{id: str}}}}}}}}\n{names}")
    with pytest.raises(
        ConfigError, match=f"the service reads a table at `/consumption/{route}`, so it cannot start"
    ):
        load_file(path, environ={}).check()


def test_other_names_that_begin_with_get_are_free(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("version: 1\npipelines: {get_blobs: {nodes: {a: {source: blob}}}}\n")
    load_file(tmp_path / "p.yaml", environ={}).check()


def test_a_mistake_in_one_model_makes_no_other_unknown(tmp_path: Path) -> None:
    assert "unknown ingest model" not in problems(tmp_path, READING + "    A: {fields: {id: strr}}\n")


@pytest.mark.parametrize(
    "field", ["json", "copy", "schema", "validate", "model_x", "class", "fields", "größe"]
)
def test_fields_may_be_called_as_methods_are(field: str) -> None:
    document = {"models": {"Odd": {"fields": {"id": "str", field: "str?"}}}}
    (model,) = Declared(document, ".").models()
    assert model.model.model_validate({"id": "1", field: "v"}).model_dump()[field] == "v"


@pytest.mark.parametrize("field", ["model_config", "model_fields", "model_dump"])
def test_a_field_that_models_need_is_refused(field: str) -> None:
    document = {"models": {"Odd": {"fields": {"id": "str", field: "str?"}}}}
    with pytest.raises(DeclarationError, match=f"`{field}` is a reserved name of models"):
        Declared(document, ".").models()
