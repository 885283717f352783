"""Compiling: order, edges, connections, identity, documents and their difference."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, SecretStr

from engine.config import load_mapping
from engine.config.model import OnStall, RetryOptions, Settings
from engine.contract.component import (
    BatchLimits,
    Kind,
    Params,
    component,
    operational,
)
from engine.errors import ConfigError
from engine.plan.compile import compile_file, compile_plan
from engine.plan.identity import difference
from engine.plan.model import ConnectionRef, Plan
from engine.plan.topology import find_cycle, ordered
from engine.registry import Registry
from tests.unit.idle import IdleSink, IdleSource, IdleTransform


class Web(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str
    token: SecretStr | None = None


class NumbersParams(Params):
    records: int = 1
    page_size: int = operational(500)


class PostParams(Params):
    model: str = "m"
    instructions: str = ""
    key: SecretStr | None = None


class Optional(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bucket: str = "default"


@component(Kind.SOURCE, "numbers", params=NumbersParams)
class Numbers(IdleSource[NumbersParams]):
    pass


@component(Kind.TRANSFORM, "double")
class Double(IdleTransform[Params]):
    pass


@component(Kind.SINK, "post", params=PostParams, connection=Web, sandbox="ingest")
class Post(IdleSink[PostParams]):
    pass


@component(Kind.SINK, "shelf", connection=Optional)
class Shelf(IdleSink[Params]):
    pass


REGISTRY = Registry({}).including(Numbers, Double, Post, Shelf)
CHAIN: dict[str, Any] = {
    "a": {"source": "numbers"},
    "b": {"transform": "double"},
    "c": {"sink": "post"},
}


def compiled(nodes: dict[str, Any] | None = None, connections: object = None, **pipeline: Any) -> Plan:
    mapping = {
        "connections": connections if connections is not None else {"web": "sandbox"},
        "pipelines": {"p": {"nodes": nodes or CHAIN, **pipeline}},
    }
    return compile_file(load_mapping(mapping), REGISTRY)["p"]


def changed(path: str, value: Any) -> dict[str, Any]:
    """`CHAIN` with one thing changed: `b.ordered`, `a.with.records`."""
    nodes = json.loads(json.dumps(CHAIN))
    *steps, last = path.split(".")
    target = nodes
    for step in steps:
        target = target.setdefault(step, {})
    target[last] = value
    return dict(nodes)


def test_nodes_take_from_the_one_above() -> None:
    plan = compiled()
    assert [(node.name, node.kind, node.inputs) for node in plan.nodes] == [
        ("a", Kind.SOURCE, ()),
        ("b", Kind.TRANSFORM, ("a",)),
        ("c", Kind.SINK, ("b",)),
    ]
    assert [node.name for node in plan.sources] == ["a"]
    assert [node.name for node in plan.sinks] == ["c"]
    assert [node.name for node in plan.downstream("a")] == ["b"]
    assert plan.node("b").spec is Double.spec
    with pytest.raises(KeyError):
        plan.node("x")


def test_order_is_topological_and_otherwise_the_files() -> None:
    nodes = {
        "late": {"sink": "post", "input": ["x", "y"]},
        "y": {"source": "numbers"},
        "side": {"sink": "post", "input": "x"},
        "x": {"source": "numbers"},
    }
    assert [node.name for node in compiled(nodes).nodes] == ["y", "x", "late", "side"]


@pytest.mark.slow
@given(st.integers(1, 12), st.randoms(use_true_random=False))
def test_every_node_comes_after_its_inputs(count: int, rng: random.Random) -> None:
    names = [f"n{index}" for index in range(count)]
    edges = {
        name: [other for other in names[:index] if rng.random() < 0.4] for index, name in enumerate(names)
    }
    shuffled = dict(sorted(edges.items(), key=lambda _: rng.random()))
    order = ordered(shuffled)
    assert sorted(order) == sorted(names)
    assert all(order.index(given) < order.index(name) for name in names for given in edges[name])
    assert find_cycle(shuffled) == []


@pytest.mark.slow
@given(st.integers(1, 10), st.randoms(use_true_random=False))
def test_a_cycle_is_found_and_is_one(count: int, rng: random.Random) -> None:
    names = [f"n{index}" for index in range(count)]
    edges = {name: [rng.choice(names)] for name in names}
    cycle = find_cycle(edges)
    assert cycle[0] == cycle[-1]
    assert all(before in edges[after] for before, after in pairwise(cycle))


def test_branches_may_meet_when_one_has_a_key_suffix() -> None:
    nodes = {
        "a": {"source": "numbers"},
        "b": {"transform": "double"},
        "c": {"transform": "double", "input": "a", "key_suffix": "x"},
        "d": {"sink": "post", "input": ["b", "c"]},
    }
    assert compiled(nodes).node("c").options.key_suffix == "x"
    nodes["b"]["key_suffix"] = "x"  # type: ignore[index]
    with pytest.raises(ConfigError, match="the records of `a` reach `d` with the same keys twice"):
        compiled(nodes)


def test_a_key_suffix_before_the_branches_part_does_not_help() -> None:
    nodes = {
        "a": {"source": "numbers"},
        "b": {"transform": "double", "key_suffix": "x"},
        "c": {"transform": "double"},
        "d": {"sink": "post", "input": ["b", "c"]},
    }
    with pytest.raises(ConfigError, match="with the same keys twice"):
        compiled(nodes)


def test_two_sources_may_meet() -> None:
    nodes = {
        "a": {"source": "numbers"},
        "b": {"source": "numbers"},
        "c": {"sink": "post", "input": ["a", "b"]},
    }
    assert compiled(nodes).node("c").inputs == ("a", "b")


def test_a_sink_may_have_nodes_below_it_and_a_tapped_node_needs_none() -> None:
    nodes = {"a": {"source": "numbers"}, "b": {"sink": "post"}, "c": {"transform": "double"}}
    config = load_mapping({"connections": {"w": "sandbox"}, "pipelines": {"p": {"nodes": nodes}}})
    with pytest.raises(ConfigError, match="no node consumes the output of the transform `c`"):
        compile_plan(config.pipelines["p"], config, REGISTRY)
    plan = compile_plan(config.pipelines["p"], config, REGISTRY, taps=["c"])
    assert plan.node("c").inputs == ("b",)


def test_options_and_settings() -> None:
    nodes = changed("b", {
        "transform": "double", "retry": {"attempts": 2, "base": "1s", "cap": "1m"}, "concurrency": 3,
        "ordered": True, "batch": {"records": 10, "bytes": "1 KB", "linger": "500ms"},
        "on_stall": "dead_letter", "buffer": 4,
    })  # fmt: skip
    plan = compiled(
        nodes,
        memory="2 MB",
        outage_limit="30s",
        timeout="1h",
        retries=3,
        schedule="0 * * * *",
        dead_letters={"max": 7},
    )
    options = plan.node("b").options
    assert options.retry == RetryOptions(2, 1.0, 60.0)
    assert (options.concurrency, options.ordered, options.buffer) == (3, True, 4)
    assert (options.batch, options.on_stall) == (BatchLimits(10, 1024, 0.5), OnStall.DEAD_LETTER)
    assert plan.settings == Settings(2 << 20, 30.0, 3600.0, 3, (), (), "0 * * * *")
    assert (plan.dead_letters.max_count, plan.dead_letters.max_share) == (7, None)


def test_defaults() -> None:
    plan = compiled(timeout="never")
    options = plan.node("a").options
    assert plan.settings == Settings(64 << 20, 600.0, None, 0, (), (), "")
    assert (options.retry, options.concurrency, options.batch) == (RetryOptions(5, 0.5, 30.0), None, None)
    assert (plan.dead_letters.max_count, plan.dead_letters.forward) == (None, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, (None, 0.6, True)), ({"max": 7}, (7, None, False)), ({"max": "100%"}, (None, 1.0, False))],
)
def test_share_that_may_die_unless_the_file_says_otherwise(
    given: dict[str, object], expected: tuple[int | None, float | None, bool]
) -> None:
    limits = compiled(dead_letters=given).dead_letters
    assert (limits.max_count, limits.max_share, limits.implied) == expected


def test_forwarding_of_dead_letters_is_a_node_of_its_own() -> None:
    plan = compiled(dead_letters={"max": "20%", "forward": {"sink": "post", "with": {"model": "d"}}})
    forward = plan.dead_letters.forward
    assert forward is not None
    assert (forward.name, forward.kind, forward.inputs) == ("dead_letters.forward", Kind.SINK, ())
    assert forward.params.model_dump()["model"] == "d"
    assert plan.dead_letters.max_share == 0.2
    assert plan.identity == compiled().identity
    assert "dead_letters.forward" not in [node.name for node in plan.nodes]


def test_null_is_the_default_of_a_field_that_knows_no_null() -> None:
    nodes = changed("c.with", {"instructions": "${params.text}", "key": None})
    params = compiled(nodes, params={"text": None}).node("c").params.model_dump()
    assert (params["instructions"], params["key"]) == ("", None)


@pytest.mark.parametrize(
    ("connections", "named", "expected"),
    [
        ({"web": "sandbox"}, None, ConnectionRef("web", {}, True)),
        ({"web": {"url": "sandbox", "token": ""}}, None, ConnectionRef("web", {}, True)),
        (
            {"web": {"url": "sandbox"}, "s3": {"bucket": "b"}, "x": "sandbox"},
            None,
            ConnectionRef("web", {}, True),
        ),
        ({"web": {"url": "http://x", "token": ""}}, None, ConnectionRef("web", {"url": "http://x"}, False)),
        ({"a": {"url": "x"}, "b": {"url": "y"}}, "b", ConnectionRef("b", {"url": "y"}, False)),
        ({}, "sandbox", ConnectionRef("sandbox", {}, True)),
    ],
)
def test_connections(connections: object, named: str | None, expected: ConnectionRef) -> None:
    nodes = changed("c.with", {"connection": named} if named else {})
    assert compiled(nodes, connections).node("c").connection == expected


def test_connection_with_only_defaults_may_be_omitted() -> None:
    node = compiled(changed("c", {"sink": "shelf"}), {"web": {"url": "x"}}).node("c")
    assert node.connection == ConnectionRef("")
    assert node.connection_model() == Optional()


def test_a_component_without_sandbox_cannot_use_one() -> None:
    nodes = changed("c", {"sink": "shelf", "with": {"connection": "web"}})
    with pytest.raises(ConfigError, match="`shelf` has no sandbox"):
        compiled(nodes, {"web": "sandbox"})


def test_the_sandbox_fills_in_the_connection() -> None:
    plan = compiled(None, {"web": {"url": "sandbox", "token": "mine"}})
    node = plan.node("c")
    assert (node.needs_sandbox, plan.sandbox_services) == ("ingest", {"ingest"})  # type: ignore[comparison-overlap]
    filled = node.connection_model({"url": "http://127.0.0.1:1", "region": "unknown to the model"})
    assert filled == Web(url="http://127.0.0.1:1", token=SecretStr("mine"))
    real = compiled(None, {"web": {"url": "http://x"}})
    assert real.sandbox_services == frozenset()
    assert real.node("c").connection_model() == Web(url="http://x")
    assert real.node("a").connection_model() is None


IDENTITY_CHANGES = [
    ("a.with.records", 2),
    ("c.with.model", "other"),
    ("b.key_suffix", "x"),
    ("b.input", "a2"),
    ("b", {"sink": "post"}),
]
OPERATIONAL_CHANGES = [
    ("a.with.page_size", 5),
    ("c.with.key", "other"),
    ("b.ordered", True),
    ("b.concurrency", 5),
    ("b.retry.attempts", 2),
    ("b.batch.records", 5),
    ("b.buffer", 5),
    ("b.on_stall", "dead_letter"),
]


@pytest.mark.parametrize(("path", "value"), IDENTITY_CHANGES)
def test_what_alters_records_alters_the_identity(path: str, value: object) -> None:
    nodes = changed(path, value)
    if path == "b.input":
        nodes = {"a2": {"source": "numbers"}, **nodes, "d": {"sink": "post", "input": "a"}}
    assert compiled(nodes).identity != compiled().identity


@pytest.mark.parametrize(("path", "value"), OPERATIONAL_CHANGES)
def test_operational_settings_do_not(path: str, value: object) -> None:
    before, after = compiled(), compiled(changed(path, value))
    assert after.identity == before.identity
    if path != "c.with.key":  # secrets are in no document
        assert difference(before.operational_doc, after.operational_doc)


def test_connections_and_pipeline_settings_do_not() -> None:
    before = compiled(None, {"web": {"url": "http://x"}})
    after = compiled(None, {"web": {"url": "http://user:pw@y"}}, memory="1 MB")
    assert after.identity == before.identity
    assert difference(before.operational_doc, after.operational_doc) == [
        'nodes.c.connection.url: "http://x" → "http://***@y"',
        "settings.memory_bytes: 67108864 → 1048576",
    ]


def test_order_in_the_file_does_not_alter_the_identity() -> None:
    nodes = {
        "a": {"source": "numbers"},
        "x": {"source": "numbers"},
        "c": {"sink": "post", "input": ["a", "x"]},
    }
    turned = {"x": nodes["x"], "a": nodes["a"], "c": {"sink": "post", "input": ["x", "a"]}}
    assert compiled(nodes).identity == compiled(turned).identity


def test_the_identity_is_the_same_in_every_process() -> None:
    assert compiled().identity == "88e7ea4148d88b480e5cf3b97d6b42c4fb49d76a8c44793ed417a456a85d47df"


def test_difference_names_what_changed() -> None:
    before = {"nodes": {"a": {"params": {"n": 1, "m": [1]}}, "b": {}}}
    after = {"nodes": {"a": {"params": {"n": 2, "m": [1]}}, "c": {}}}
    assert difference(before, after) == ["nodes.a.params.n: 1 → 2", "nodes.b: removed", "nodes.c: added"]
    assert difference(before, before) == []


def test_difference_names_parameters_as_the_file_does() -> None:
    before = {"nodes": {"a": {"params": {"schema_": "Old", "map": {"id_": 1}}}}}
    after = {"nodes": {"a": {"params": {"schema_": "New", "map": {"id_": 2}}}}}
    assert difference(before, after) == [
        'nodes.a.params.schema: "Old" → "New"',
        "nodes.a.params.map.id_: 1 → 2",
    ]


def test_documents_are_json() -> None:
    plan = compiled()
    assert json.loads(json.dumps(plan.identity_doc)) == plan.identity_doc
    assert json.loads(json.dumps(plan.operational_doc)) == plan.operational_doc


def test_a_plan_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        compiled().pipeline = "other"  # type: ignore[misc]


def test_python_objects_may_stand_under_with() -> None:
    class Item(BaseModel):
        x: int = 0

    class TypedParams(Params):
        model: type[BaseModel]

    @component(Kind.SINK, "typed", params=TypedParams)
    class Typed(IdleSink[TypedParams]):
        pass

    mapping = {
        "pipelines": {
            "p": {"nodes": {"a": {"source": "numbers"}, "b": {"sink": "typed", "with": {"model": Item}}}}
        }
    }
    plan = compile_file(load_mapping(mapping), REGISTRY.including(Typed))["p"]
    assert plan.node("b").params.model_dump()["model"] is Item
    assert json.dumps(plan.identity_doc).count("Item") == 1


def test_problems_of_the_file_and_of_the_plan_come_together() -> None:
    config = load_mapping(
        {"oops": 1, "pipelines": {"p": {"nodes": {"a": {"source": "nmbers"}, "b": {"sink": "post"}}}}}
    )
    with pytest.raises(ConfigError) as caught:
        compile_plan(config.pipelines["p"], config, REGISTRY)
    assert {problem.path for problem in caught.value.problems} == {
        "oops",
        "pipelines.p.nodes.a.source",
        "pipelines.p.nodes.b.sink",
    }
    with pytest.raises(ConfigError, match="unknown key `oops`"):
        config.check()
