"""Run parameters and `--set`: values, conversion, and what cannot be set."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import FileConfig, Overrides, load_mapping
from engine.config.model import ParamType
from engine.plan.compile import compile_file
from engine.registry import Registry

PARAMS = {
    "n": 5,
    "share": 0.5,
    "dry": False,
    "pattern": "a*",
    "note": None,
    "tags": ["a"],
    "color": {"default": "red", "choices": ["red", "green"], "description": "Which"},
    "limit": {"type": "int", "default": None},
    "must": {"type": "integer", "required": True},
}


def load(*texts: str, sets: tuple[str, ...] = (), **params: Any) -> FileConfig:
    mapping = {
        "pipelines": {
            "p": {
                "params": PARAMS,
                "nodes": {
                    "a": {"source": "numbers", "with": {"records": "${params.n}"}},
                    "b": {"sink": "keep", "batch": None},
                },
            }
        }
    }
    overrides = Overrides(params={"p": {"must": 1, **params}}, param_texts=tuple(texts), assignments=sets)
    return load_mapping(mapping, overrides=overrides)


def test_parameters_are_typed_by_their_defaults() -> None:
    declared = load().pipelines["p"].parameters
    assert {name: str(parameter.type) for name, parameter in declared.items()} == {
        "n": "int",
        "share": "float",
        "dry": "bool",
        "pattern": "string",
        "note": "string",
        "tags": "list",
        "color": "string",
        "limit": "int",
        "must": "int",
    }
    assert [name for name, parameter in declared.items() if parameter.nullable] == ["note", "limit"]
    assert [name for name, parameter in declared.items() if parameter.required] == ["must"]
    assert (declared["color"].description, declared["color"].choices) == ("Which", ("red", "green"))
    assert declared["n"].type is ParamType.INT


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("p.n=7", 7),
        ("p.share=1", 1.0),
        ("p.dry=true", True),
        ("p.pattern=5", "5"),
        ("p.pattern=s3://x/*=y", "s3://x/*=y"),
        ("p.pattern=${HOME}", "${HOME}"),
        ("p.pattern=", ""),
        ("p.note=null", None),
        ("p.note=", None),
        ("p.note=text", "text"),
        ("p.tags=a,5", ["a", 5]),
        ("p.color=green", "green"),
        ("p.limit=~", None),
        ("p.n=null", PARAMS["n"]),
        ("p.share=~", PARAMS["share"]),
        ("p.pattern=null", PARAMS["pattern"]),
        ("p.limit=3", 3),
    ],
)
def test_texts_are_converted_to_the_parameters_type(text: str, value: object) -> None:
    config = load(text)
    name = text.partition("=")[0].removeprefix("p.")
    assert config.problems == ()
    assert config.pipelines["p"].values[name] == value
    assert type(config.pipelines["p"].values[name]) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("p.n=many", "--param: p.n: parameter `n` of `p`: expected an integer, got 'many'"),
        ("p.n=1.5", "--param: p.n: parameter `n` of `p`: expected an integer, got 1.5"),
        ("p.must=null", "--param: p.must: parameter `must` of `p`: expected an integer, got nothing (null)"),
        ("p.dry=5", "--param: p.dry: parameter `dry` of `p`: expected true or false, got 5"),
        (
            "p.color=gren",
            (
                "--param: p.color: parameter `color` of `p`: expected one of `red`, `green`, "
                "got 'gren' (did you mean `green`?)"
            ),
        ),
        ("p.patern=x", "--param: p.patern: unknown parameter `patern`, did you mean `pattern`?"),
        ("q.n=5", "--param: q.n: unknown pipeline `q`, known: `p`"),
        ("n=5", "--param: n: cannot parse `n=5` (write --param pipeline.name=value)"),
        ("p.n", "--param: p.n: cannot parse `p.n` (write --param pipeline.name=value)"),
    ],
)
def test_texts_that_do_not_fit(text: str, problem: str) -> None:
    assert [str(found) for found in load(text).problems] == [problem]


def test_values_of_a_caller_are_checked_too() -> None:
    assert sorted(str(problem) for problem in load(n=[1], nn=2).problems) == [
        "params: p.n: parameter `n` of `p`: expected an integer, got a list",
        "params: p.nn: unknown parameter `nn`, did you mean `n`?",
    ]
    config = load_mapping({"pipelines": {}}, overrides=Overrides(params={"x": {}}))
    assert "no pipelines defined" in str(config.problems[0])


def test_a_required_parameter_must_be_given() -> None:
    mapping = {"pipelines": {"p": {"params": {"must": {"required": True}}, "nodes": {"a": {"source": "x"}}}}}
    assert [str(problem) for problem in load_mapping(mapping).problems] == [
        "pipelines.p.params.must: parameter `must` of `p` is required (give --param p.must=…)"
    ]


def test_last_text_wins_over_earlier_ones_and_callers_values() -> None:
    assert load("p.n=6", "p.n=7", n=5).pipelines["p"].values["n"] == 7


def test_assignments_reach_every_place(registry: Registry) -> None:
    config = load(
        sets=(
            "pipelines.p.nodes.b.retry.attempts=2",
            "pipelines.p.nodes.b.batch={records: 10, linger: 1s}",
            "pipelines.p.params.n=9",
            "pipelines.p.params.tags.0=z",
            "pipelines.p.memory=1 MB",
            "pipelines.p.on_stall=wait",
            "pipelines.p.nodes.b.input=[a]",
        )
    )
    assert [str(problem) for problem in config.problems] == [
        (
            "--set: pipelines.p.on_stall: unknown key `on_stall`, known: `params`, `nodes`, `dead_letters`, "
            "`schedule`, `time_zone`, `catch_up`, `timeout`, `retries`, `on_complete`, `on_cancel`, "
            "`on_failure`, `notify`, `memory`, "
            "`outage_limit`, `min_records`, `require_match`, `budget_usd`, `budget_usd_per_day`, "
            "`if_running`, `description`"
        )
    ]
    pipeline = config.pipelines["p"]
    options = pipeline.nodes[1].options
    assert (options.retry.attempts, options.batch and options.batch.records) == (2, 10)
    assert (pipeline.values["n"], pipeline.values["tags"]) == (9, ["z"])
    plan = compile_file(load(sets=("pipelines.p.memory=1 MB",)), registry)["p"]
    assert plan.settings.memory_bytes == 1 << 20


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pipelines.q.memory=1", "--set: pipelines.q.memory: unknown pipeline `q`, known: `p`"),
        (
            "pipelines.p.nodes.bb.buffer=1",
            ("--set: pipelines.p.nodes.bb.buffer: unknown node `bb`, did you mean `b`?"),
        ),
        ("connections.x.url=1", "--set: connections.x.url: unknown connection `x`"),
        (
            "pipelines.p.nodes.b.bufer=1",
            ("--set: pipelines.p.nodes.b.bufer: unknown key `bufer`, did you mean `buffer`?"),
        ),
        (
            "pipelines.p.nodes.b.buffer=many",
            "--set: pipelines.p.nodes.b.buffer: expected a valid integer, got 'many'",
        ),
        (
            "pipelines.p.params.tags.7=x",
            ("--set: pipelines.p.params.tags.7: `7` is not an index of the list (indexes start at 0)"),
        ),
        (
            "pipelines.p.params.n.x=1",
            "--set: pipelines.p.params.n.x: cannot set `x`: its parent is 5, not a mapping",
        ),
        ("memory", "--set: memory: cannot parse `memory` (write --set dotted.path=value)"),
        ("a..b=1", "--set: a..b: cannot parse `a..b=1` (write --set dotted.path=value)"),
    ],
)
def test_assignments_that_do_not_fit(text: str, problem: str) -> None:
    assert [str(found) for found in load(sets=(text,)).problems] == [problem]
