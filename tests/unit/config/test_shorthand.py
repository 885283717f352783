"""The short forms of nodes."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from engine.config import load_mapping
from engine.config.model import NodeConfig
from engine.config.schema import file_schema
from engine.errors import Problem
from engine.registry import Registry


def loaded(node: dict[str, Any]) -> tuple[NodeConfig | None, list[str]]:
    document = {"version": 1, "pipelines": {"p": {"nodes": {"read": {"source": "blob"}, "n": node}}}}
    file = load_mapping(document, environ={})
    nodes = {one.name: one for one in file.pipelines["p"].nodes}
    return nodes.get("n"), [problem_text(one) for one in file.problems]


def problem_text(problem: Problem) -> str:
    return f"{problem.path}: {problem.message}"


@pytest.mark.parametrize(
    ("node", "arguments"),
    [
        ({"filter": "a > 0"}, {"where": "a > 0"}),
        ({"filter": "a > 0", "with": {"reason": "small"}}, {"reason": "small", "where": "a > 0"}),
        ({"filter": {"where": "a > 0", "reason": "small"}}, {"where": "a > 0", "reason": "small"}),
        ({"map": {"drop": ["a"]}}, {"drop": ["a"]}),
        ({"map": [{"drop": ["a"]}]}, {"steps": [{"drop": ["a"]}]}),
    ],
)
def test_a_short_form_is_the_transform_with_its_parameters(
    node: dict[str, Any], arguments: dict[str, Any]
) -> None:
    read, problems = loaded(node)

    assert problems == []
    assert read is not None
    assert (str(read.kind), read.component) == ("transform", next(iter(node)))
    assert read.arguments.plain() == arguments


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (
            {"filter": "a", "transform": "map"},
            "pipelines.p.nodes.n: a node can have only one kind, not `transform` and `filter`",
        ),
        (
            {"filter": "a", "map": {}},
            "pipelines.p.nodes.n: a node can have only one kind, not `filter` and `map`",
        ),
        (
            {"map": {"drop": ["a"]}, "with": {"keep": ["b"]}},
            "pipelines.p.nodes.n.with: `with` next to a mapping under `map`",
        ),
        ({"filtre": "a"}, "pipelines.p.nodes.n.filtre: unknown key `filtre`, did you mean `filter`?"),
    ],
)
def test_a_wrong_short_form_is_a_problem(node: dict[str, Any], problem: str) -> None:
    assert problem in loaded(node)[1]


def test_the_other_keys_of_a_node_stand_beside_a_short_form() -> None:
    read, problems = loaded({"filter": "a", "input": "read", "key_suffix": "x"})

    assert problems == []
    assert read is not None
    assert read.options.key_suffix == "x"


@cache
def editors_schema() -> Draft202012Validator:
    return Draft202012Validator(file_schema(Registry.installed()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("node", "valid"),
    [
        ({"filter": "a > 0"}, True),
        ({"filter": {"where": "a > 0"}, "input": "read"}, True),
        ({"filter": {"wher": "a > 0"}}, False),
        ({"map": [{"drop": ["a"]}]}, True),
        ({"map": {"dorp": ["a"]}}, False),
    ],
)
def test_the_editors_schema_knows_the_short_forms(node: dict[str, Any], valid: bool) -> None:
    document = {"version": 1, "pipelines": {"p": {"nodes": {"read": {"source": "blob"}, "n": node}}}}

    assert editors_schema().is_valid(document) is valid
