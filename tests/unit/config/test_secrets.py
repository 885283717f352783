"""Values from the environment reach components, but nothing that is shown or stored."""

from __future__ import annotations

import json

import pytest
from pydantic import SecretStr

from engine.config import FileConfig, Overrides, load_mapping
from engine.errors import ConfigError
from engine.plan.compile import compile_file
from engine.plan.model import Plan
from engine.registry import Registry

SECRET = "hunter2-and-more"
ENVIRON = {"S": SECRET, "URL": f"http://user:{SECRET}@host/"}


def load(**post: object) -> FileConfig:
    return load_mapping(
        {
            "connections": {"web": {"url": "${URL}", "token": "${S}", "region": "r ${S}"}},
            "pipelines": {
                "p": {
                    "params": {"given": "x", "s": "${S}", "list": {"default": ["${S}"]}},
                    "nodes": {
                        "a": {"source": "numbers"},
                        "b": {"sink": "post", "with": {"model": "${params.s}", "key": "k${S}", **post}},
                    },
                }
            },
        },
        environ=ENVIRON,
    )


def compiled(registry: Registry, **post: object) -> Plan:
    return compile_file(load(**post), registry)["p"]


def test_components_get_them(registry: Registry) -> None:
    node = compiled(registry).node("b")
    assert node.params.model_dump()["model"] == SECRET
    assert node.params.model_dump()["key"] == SecretStr(f"k{SECRET}")
    assert node.connection is not None
    assert node.connection.values["token"] == SECRET
    model = node.connection_model()
    assert model is not None
    assert model.model_dump()["region"] == f"r {SECRET}"


def test_nothing_shown_or_stored_has_them(registry: Registry) -> None:
    config = load()
    plan = compiled(registry)
    shown = [repr(config), repr(plan), *(repr(node) for node in plan.nodes), repr(plan.node("b").connection)]
    stored = [json.dumps(plan.identity_doc), json.dumps(plan.operational_doc), json.dumps(dict(plan.params))]
    assert [text for text in (*shown, *stored) if SECRET in text] == []
    assert dict(plan.params) == {"given": "x"}


def test_a_change_of_one_that_alters_records_changes_the_identity(registry: Registry) -> None:
    before = compiled(registry)
    other_environ = {**ENVIRON, "S": "other-secret"}
    after = compile_file(
        load_mapping(
            {
                "connections": {"web": {"url": "${URL}", "token": "${S}"}},
                "pipelines": {
                    "p": {
                        "params": {"s": "${S}"},
                        "nodes": {
                            "a": {"source": "numbers"},
                            "b": {"sink": "post", "with": {"model": "${params.s}"}},
                        },
                    }
                },
            },
            environ=other_environ,
        ),
        registry,
    )["p"]
    assert before.identity != after.identity
    assert before.identity == compiled(registry).identity


@pytest.mark.parametrize("bad", [{"even": "${S}"}, {"key": ["${S}"]}, {"model": ["${S}"]}, {"mdoel": "${S}"}])
def test_problems_do_not_have_them(bad: dict[str, object], registry: Registry) -> None:
    with pytest.raises(ConfigError) as caught:
        compiled(registry, **bad)
    assert SECRET not in str(caught.value)


def test_even_short_ones_are_kept_out_of_messages_of_validators(registry: Registry) -> None:
    config = load_mapping(
        {
            "connections": {"web": "sandbox"},
            "pipelines": {
                "p": {
                    "nodes": {
                        "a": {"source": "numbers"},
                        "b": {"sink": "post", "with": {"even": "${N}", "model": "m"}},
                    }
                }
            },
        },
        environ={"N": "7"},
    )
    with pytest.raises(ConfigError) as caught:
        compile_file(config, registry)
    assert str(caught.value) == "pipelines.p.nodes.b.with.even: *** is odd"


def test_secrets_written_into_the_file_are_not_stored(registry: Registry) -> None:
    plan = compiled(registry, key="literal-key")
    assert "literal-key" not in json.dumps([plan.identity_doc, plan.operational_doc])
    assert "literal-key" not in repr(plan)


def test_environment_for_a_parameter_is_hidden_in_its_problem() -> None:
    mapping = {
        "pipelines": {
            "p": {
                "params": {"n": {"type": "int", "default": "${S}"}},
                "nodes": {"a": {"source": "numbers"}, "b": {"sink": "keep"}},
            }
        }
    }
    config = load_mapping(mapping, environ=ENVIRON, overrides=Overrides())
    assert [str(problem) for problem in config.problems] == [
        "pipelines.p.params.n.default: expected an integer, got the value of `${S}`"
    ]
