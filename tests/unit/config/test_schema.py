"""The editor's schema, held to the checks of the engine and to `pipelines.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from engine.config.schema import file_schema
from engine.registry import Registry

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def schema(registry: Registry) -> Draft202012Validator:
    document = file_schema(registry)
    Draft202012Validator.check_schema(document)
    return Draft202012Validator(document)


def pipeline(**nodes: Any) -> dict[str, Any]:
    return {"version": 1, "pipelines": {"p": {"nodes": nodes}}}


SOURCE = {"source": "numbers", "with": {"records": 5}}

VALID = {
    "short": pipeline(a=SOURCE, b={"sink": "keep"}),
    "interpolated": pipeline(
        a={"source": "numbers", "with": {"records": "${params.n}", "flag": "${FLAG:-no}"}},
        b={"sink": "keep", "concurrency": "${N}", "batch": {"bytes": "64 MB", "linger": 1.5}, "input": ["a"]},
    ),
    "connection": pipeline(a=SOURCE, b={"sink": "post", "with": {"connection": "web", "model": "m"}}),
    "plugin": pipeline(a={"source": "my.module:Source", "with": {"anything": 1}}, b={"sink": "${SINK}"}),
    "everything": {
        "version": 1,
        "connections": {"web": {"url": "sandbox", "token": "${T:-}"}, "lake": "sandbox"},
        "aliases": {"a": "b"},
        "pipelines": {
            "p": {
                "params": {"n": 5, "x": None, "y": {"type": "int", "default": 1, "choices": [1, 2]}},
                "nodes": {"a": SOURCE, "b": {"sink": "keep", "key_suffix": "x", "ordered": True}},
                "dead_letters": {"max": "20%", "forward": {"sink": "keep"}},
                "schedule": "@daily",
                "timeout": "never",
                "retries": 3,
                "on_complete": "q",
                "on_cancel": ["q"],
                "memory": "64 MB",
                "outage_limit": "10m",
            },
            "q": {"nodes": {"a": SOURCE, "b": {"sink": "keep"}}},
        },
    },
}
INVALID = {
    "wrong version": {"version": 2, "pipelines": {}},
    "unknown section": {"version": 1, "pipelines": {}, "pipeline": {}},
    "unknown parameter of a component": pipeline(a={"source": "numbers", "with": {"record": 5}}),
    "wrong type": pipeline(a={"source": "numbers", "with": {"records": "many"}}),
    "parameters of another component": pipeline(a={"source": "numbers", "with": {"model": "x"}}),
    "required parameter": pipeline(b={"sink": "post"}),
    "unknown component": pipeline(a={"source": "number"}),
    "wrong kind": pipeline(a={"source": "keep"}),
    "two kinds": pipeline(a={"source": "numbers", "sink": "keep"}),
    "no kind": pipeline(a={"with": {}}),
    "unknown option": pipeline(a={**SOURCE, "retires": 1}),
    "bad name": {"version": 1, "pipelines": {"a b": {"nodes": {}}}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VALID)
def test_accepts(name: str, schema: Draft202012Validator) -> None:
    assert [error.message for error in schema.iter_errors(VALID[name])] == []


@pytest.mark.parametrize("name", INVALID)
def test_refuses(name: str, schema: Draft202012Validator) -> None:
    assert not schema.is_valid(INVALID[name])


@pytest.mark.slow
def test_describes_what_the_components_describe(registry: Registry) -> None:
    definitions = file_schema(registry)["$defs"]
    assert definitions["source.numbers"]["properties"]["records"]["description"] == "How many"
    assert definitions["sink.post"]["properties"]["connection"]["description"] == "An entry of `connections`"


@pytest.mark.slow
def test_pipelines_file_is_valid() -> None:
    document = yaml.safe_load((ROOT / "pipelines.yaml").read_text(encoding="utf-8"))
    validator = Draft202012Validator(file_schema(Registry.installed()))
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)] == []
